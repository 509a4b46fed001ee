//! Files of request rates over time.

use std::path::{Path, PathBuf};

use traces::rate::Steps;
use traces::units::Nanos;

/// A file of rates that cannot be read. Lines count from 1.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message of a variant names its fields")]
pub enum SeriesError {
    /// The file could not be read.
    #[error("{path}: {message}")]
    Io { path: PathBuf, message: String },
    /// A row is wrong.
    #[error("{path}, line {line}: {field} is {value:?}: expected {expected}")]
    Row { path: PathBuf, line: u64, field: &'static str, value: String, expected: &'static str },
    /// The last rate has no end.
    #[error("{0}: the last rate never ends: give --duration, or a last row with the rate 0")]
    Endless(PathBuf),
}

/// Largest number of rows.
const ROWS_MAX: usize = 1_000_000;

/// Reads rows of `START,RATE`, in seconds and requests per second, with or without a header. The
/// last rate ends at `duration`, or at a last row with the rate 0.
pub fn read(path: &Path, duration: Option<Nanos>) -> Result<Steps, SeriesError> {
    let io = |e: csv::Error| SeriesError::Io { path: path.to_owned(), message: e.to_string() };
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(csv::Trim::All)
        .from_path(path)
        .map_err(io)?;
    let mut steps: Vec<(f64, f64)> = Vec::new();
    for (at, row) in reader.records().enumerate() {
        let row = row.map_err(io)?;
        let line = row.position().map_or(0, csv::Position::line);
        let cell = |column: usize| row.get(column).unwrap_or("");
        let bad = |field, column, expected| {
            let value = cell(column).to_owned();
            SeriesError::Row { path: path.to_owned(), line, field, value, expected }
        };
        if at == 0 && row.iter().all(|name| name.chars().any(char::is_alphabetic)) {
            continue;
        }
        let number = |column| cell(column).parse::<f64>().ok().filter(|n| (0.0..=1e9).contains(n));
        let start_s = number(0).ok_or_else(|| bad("start", 0, "seconds from 0 on"))?;
        let rate = number(1).ok_or_else(|| bad("rate", 1, "requests per second from 0 on"))?;
        let expected = if steps.is_empty() { "0 first" } else { "a start after the one above" };
        if steps.last().map_or(start_s != 0.0, |(before, _)| *before >= start_s) {
            return Err(bad("start", 0, expected));
        }
        if row.len() > 2 || steps.len() == ROWS_MAX {
            return Err(bad("the row", 2, "two columns, and a million rows at most"));
        }
        steps.push((start_s, rate));
    }
    let end_s = match (duration, steps.last()) {
        (Some(duration), _) => duration.0 as f64 / 1e9,
        (None, Some((end_s, 0.0))) => *end_s,
        (None, _) => return Err(SeriesError::Endless(path.to_owned())),
    };
    steps.retain(|(start_s, _)| *start_s < end_s);
    Ok(Steps { steps, end_s })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn read_text(text: &str, duration: Option<Nanos>) -> Result<Steps, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        read(file.path(), duration).map_err(|e| e.to_string())
    }

    #[test]
    fn rates_hold_until_the_next_row() {
        let steps = vec![(0.0, 2.0), (60.0, 5.5)];
        let expected = Ok(Steps { steps, end_s: 90.0 });
        assert_eq!(read_text("start,rate\n0,2\n60, 5.5\n90,0\n", None), expected);
        assert_eq!(read_text("0,2\n60,5.5\n95,1\n", Some(Nanos(90_000_000_000))), expected);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, expected) in [
            ("0,2\n60,-1\n", "line 2: rate is \"-1\""),
            ("0,2\n60,NaN\n", "line 2: rate is \"NaN\""),
            ("0,2\n0,3\n", "line 2: start is \"0\": expected a start after"),
            ("5,2\n", "line 1: start is \"5\": expected 0 first"),
            ("0\n", "line 1: rate is \"\""),
            ("0,1,2\n", "line 1: the row is \"2\""),
            ("0,2\n60,5\n", "the last rate never ends"),
            ("", "the last rate never ends"),
        ] {
            let error = read_text(text, None).unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }
}
