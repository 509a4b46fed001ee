//! BurstGPT CSV: one request a row, time in seconds, with or without session ids.

use std::io::{self, Write};
use std::path::Path;

use super::{Holds, ReadOptions, TraceFormat};
use crate::trace::Trace;
use crate::trace::columns::{Row, Table};
use crate::trace::detect::Sample;
use crate::trace::draft::{Arrival, Draft, Order};
use crate::trace::error::{Problem, TraceError};
use crate::units::NS_PER_S;

const COLUMNS: [&str; 6] =
    ["Timestamp", "Model", "Request tokens", "Response tokens", "Total tokens", "Log Type"];
const SESSION_COLUMNS: [&str; 2] = ["Session ID", "Elapsed time"];

pub(super) struct BurstGpt;

impl TraceFormat for BurstGpt {
    fn about(&self) -> &'static str {
        "BurstGPT CSV, time stamps in seconds"
    }

    fn recognises(&self, sample: &Sample) -> bool {
        COLUMNS.iter().all(|name| sample.columns.iter().any(|column| column == name))
    }

    fn read(&self, path: &Path, _options: &ReadOptions) -> Result<Draft, TraceError> {
        let mut draft = Draft::new(Order::Ascending);
        let mut table = Table::open(path, &COLUMNS, &SESSION_COLUMNS)?;
        while let Some(row) = table.next_row()? {
            record(&row, &mut draft).map_err(|p| p.at(path, row.line))?;
        }
        draft.absorb(table.digest());
        Ok(draft)
    }

    fn losses(&self, trace: &Trace) -> Option<Vec<String>> {
        let holds = Holds { blocks: false, sessions: true, thinking: false, step_ns: NS_PER_S };
        Some(holds.losses(trace))
    }

    fn write(&self, trace: &Trace, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{},{}", COLUMNS.join(","), SESSION_COLUMNS[0])?;
        for record in &trace.records {
            let (at, input) = (record.at_ns / NS_PER_S, record.input_tokens);
            let (output, total) =
                (record.output_tokens, u64::from(input) + u64::from(record.output_tokens));
            let session = record.session.map_or(String::new(), |session| session.to_string());
            let log = if record.session.is_some() { "Conversation log" } else { "API log" };
            writeln!(out, "{at},unknown,{input},{output},{total},{log},{session}")?;
        }
        Ok(())
    }
}

fn record(row: &Row<'_>, draft: &mut Draft) -> Result<(), Problem> {
    let at_ns = row.seconds(COLUMNS[0])?;
    let input_tokens = row.tokens(COLUMNS[2], 1)?;
    let output_tokens = row.tokens(COLUMNS[3], 0)?;
    let (total, sum) = (row.whole(COLUMNS[4])?, u64::from(input_tokens) + u64::from(output_tokens));
    if total != sum {
        let expected = format!("{sum}, the sum of {} and {}", COLUMNS[2], COLUMNS[3]);
        return Err(Problem::new(COLUMNS[4], total, expected));
    }
    for column in [COLUMNS[1], COLUMNS[5]] {
        if row.cell(column).is_empty() {
            return Err(Problem::new(column, "empty", "a name"));
        }
    }
    let session = Some(row.cell(SESSION_COLUMNS[0])).filter(|name| !name.is_empty());
    let session = session.map(|name| draft.session(name));
    let elapsed = row.cell(SESSION_COLUMNS[1]);
    let service_ns = if elapsed.is_empty() { None } else { Some(row.seconds(SESSION_COLUMNS[1])?) };
    let arrival =
        Arrival { at_ns, input_tokens, output_tokens, session, service_ns, ..Default::default() };
    draft.push(arrival, COLUMNS[0])
}
