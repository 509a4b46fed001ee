//! Azure LLM inference CSV: `TIMESTAMP,ContextTokens,GeneratedTokens`, wall-clock time.

use std::io::{self, Write};
use std::path::Path;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::{Capabilities, ReadOptions, TraceFormat};
use crate::columns::{Row, Table};
use crate::draft::{Arrival, Draft, Names, Order};
use crate::error::{Problem, TraceError};
use crate::sample::Sample;
use crate::trace::Trace;

const COLUMNS: [&str; 3] = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"];
const NAMES: Names = Names { time: COLUMNS[0], prompt: COLUMNS[1] };
/// Start of a written file: the day of the published trace.
const START: DateTime = jiff::civil::date(2023, 11, 16).at(18, 0, 0, 0);

pub(crate) struct Azure;

impl TraceFormat for Azure {
    fn about(&self) -> &'static str {
        "Azure CSV, time stamps in wall-clock time with 100 ns digits"
    }

    fn recognizes(&self, sample: &Sample) -> bool {
        COLUMNS.iter().all(|name| sample.columns.iter().any(|column| column == name))
    }

    fn read(&self, path: &Path, options: &ReadOptions) -> Result<Draft, TraceError> {
        let mut draft = Draft::new(Order::Ascending, NAMES, options.strict);
        Table::open(path, &COLUMNS, &[], &mut draft)?.drain(&mut draft, record)?;
        Ok(draft)
    }

    fn capabilities(&self) -> Option<Capabilities> {
        Some(Capabilities {
            blocks: false,
            sessions: false,
            thinking: false,
            clock: true,
            step_ns: 100,
        })
    }

    fn write(&self, trace: &Trace, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}", COLUMNS.join(","))?;
        for record in &trace.records {
            let at = START
                .checked_add(SignedDuration::from_nanos(record.at_ns))
                .map_err(io::Error::other)?;
            let (input, output) = (record.input_tokens, record.output_tokens);
            writeln!(
                out,
                "{}.{:07},{input},{output}",
                at.strftime("%Y-%m-%d %H:%M:%S"),
                at.subsec_nanosecond() / 100
            )?;
        }
        Ok(())
    }
}

fn record(row: &Row<'_>, draft: &mut Draft) -> Result<(), Problem> {
    let time = row.cell(COLUMNS[0]);
    let at_ns = time_ns(time).ok_or_else(|| {
        Problem::new(COLUMNS[0], format!("{time:?}"), "a time such as 2023-11-16 18:15:46.6805900")
    })?;
    let input_tokens = row.tokens(COLUMNS[1], 0)?;
    let output_tokens = row.tokens(COLUMNS[2], 0)?;
    draft.push(Arrival { at_ns, input_tokens, output_tokens, ..Default::default() }, "")
}

/// Parses `YYYY-MM-DD hh:mm:ss[.fraction][+hh:mm]`, in UTC by default, to nanoseconds since 1970.
fn time_ns(text: &str) -> Option<i64> {
    let plain = text.len() >= 19
        && text.as_bytes()[..19].iter().all(|b| b.is_ascii_digit() || b"-: T".contains(b));
    let time = if !plain {
        return None;
    } else if text[19..].contains(['+', '-', 'Z']) {
        text.parse::<Timestamp>().ok()?
    } else {
        TimeZone::UTC.to_timestamp(text.parse::<DateTime>().ok()?).ok()?
    };
    i64::try_from(time.as_nanosecond()).ok().filter(|ns| *ns >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::NS_PER_S;

    #[test]
    fn times_follow_the_calendar() {
        assert_eq!(time_ns("1970-01-01 00:00:00"), Some(0));
        assert_eq!(time_ns("2000-03-01 00:00:00"), Some(951_868_800 * NS_PER_S));
        assert_eq!(time_ns("2023-11-16 18:15:46.68059"), Some(1_700_158_546_680_590_000));
        assert_eq!(time_ns("2024-02-29 00:00:00.1"), Some(1_709_164_800_100_000_000));
        assert_eq!(time_ns("2024-02-29 01:00:00.1+01:00"), Some(1_709_164_800_100_000_000));
        assert_eq!(time_ns("2000-03-01 00:00:00+00:00"), Some(951_868_800 * NS_PER_S));
        assert_eq!(time_ns("2024-02-29T00:00:00.1Z"), Some(1_709_164_800_100_000_000));
        for bad in ["2023-02-29 00:00:00", "2023-02-28", "now", "", "2023-11-16 18:15:46.", "é"] {
            assert_eq!(time_ns(bad), None, "{bad}");
        }
    }
}
