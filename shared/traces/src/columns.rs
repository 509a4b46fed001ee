//! CSV files with checked columns and cells.

use std::path::Path;

use csv::StringRecord;

use super::draft::Draft;
use super::error::{Problem, TraceError};
use super::fields::{seconds_ns, token_count, whole};
use super::input::Lines;
use super::oddity::Oddity;

/// A CSV file with a valid header.
pub(crate) struct Table {
    lines: Lines,
    header: Vec<String>,
}

/// A row of a table.
pub(crate) struct Row<'a> {
    header: &'a [String],
    cells: StringRecord,
}

/// Splits a line of CSV into cells.
fn cells_of(line: &str) -> StringRecord {
    if !line.contains('"') {
        return line.split(',').collect();
    }
    let mut cells = StringRecord::new();
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(line.as_bytes());
    // A line of valid text in memory is always a record.
    reader.read_record(&mut cells).ok();
    cells
}

/// Splits a header line into column names.
pub(crate) fn header_of(line: &str) -> Vec<String> {
    cells_of(line).iter().map(|name| name.trim().to_owned()).collect()
}

impl Table {
    /// Opens a file that has the columns `needed` and perhaps those of `allowed`. Other columns are
    /// an oddity.
    pub(crate) fn open(
        path: &Path,
        needed: &[&str],
        allowed: &[&str],
        draft: &mut Draft,
    ) -> Result<Self, TraceError> {
        let mut lines = Lines::open(path, draft)?;
        let Some(line) = lines.next_line(draft)? else {
            return Err(TraceError::Empty { path: path.to_owned() });
        };
        let header = header_of(line);
        let mut once = header.clone();
        once.sort_unstable();
        once.dedup();
        let whole = needed.iter().all(|name| header.iter().any(|column| column == name));
        let expected = format!("the columns {}", needed.join(","));
        let problem = Problem::new("the header", header.join(","), expected);
        if !whole || once.len() < header.len() {
            return Err(draft.locate(problem));
        }
        for name in header.iter().filter(|name| !needed.contains(&&***name)) {
            if !allowed.contains(&&**name) {
                let unknown = Oddity::UnknownField(name.clone());
                draft.odd(unknown, problem.clone()).map_err(|problem| draft.locate(problem))?;
            }
        }
        Ok(Self { lines, header })
    }

    /// Opens a file without a header whose columns are `names`.
    pub(crate) fn without_header(
        path: &Path,
        names: &[&str],
        draft: &mut Draft,
    ) -> Result<Self, TraceError> {
        let header = names.iter().map(|name| (*name).to_owned()).collect();
        Ok(Self { lines: Lines::open(path, draft)?, header })
    }

    /// Passes every remaining row to `take`, and adds the digest of the file to `draft`.
    pub(crate) fn drain(
        self,
        draft: &mut Draft,
        mut take: impl FnMut(&Row<'_>, &mut Draft) -> Result<(), Problem>,
    ) -> Result<(), TraceError> {
        let Self { lines, header } = self;
        lines.drain(draft, |line, draft| {
            let row = Row { header: &header, cells: cells_of(line) };
            if row.cells.len() != header.len() {
                let expected = format!("{} columns", header.len());
                let found = format!("{} columns", row.cells.len());
                return Err(Problem::new("the row", found, expected));
            }
            if row.cells.iter().map(str::trim).eq(header.iter()) {
                let problem = Problem::new("the row", "the header", "a record");
                return draft.odd(Oddity::RepeatedHeader, problem);
            }
            take(&row, draft)
        })
    }
}

impl Row<'_> {
    /// Returns the cell of a column; empty if the file has no such column.
    pub(crate) fn cell(&self, column: &str) -> &str {
        let at = self.header.iter().position(|name| name == column);
        at.and_then(|at| self.cells.get(at)).unwrap_or("").trim()
    }

    /// Parses the cell as a number that is not negative.
    pub(crate) fn number(&self, column: &str) -> Result<f64, Problem> {
        let cell = self.cell(column);
        let number = cell.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0);
        number.ok_or_else(|| Problem::new(column, quoted(cell), "a number, not negative"))
    }

    /// Parses the cell as a whole number that is not negative.
    pub(crate) fn whole(&self, column: &str) -> Result<u64, Problem> {
        let cell = self.cell(column);
        let number = cell.parse().ok().or_else(|| cell.parse().ok().and_then(whole));
        number.ok_or_else(|| Problem::new(column, quoted(cell), "a whole number, not negative"))
    }

    /// Parses the cell as a token count within the limits.
    pub(crate) fn tokens(&self, column: &str, least: u32) -> Result<u32, Problem> {
        let count = self.whole(column)?;
        token_count(count, least).map_err(|expected| Problem::new(column, count, expected))
    }

    /// Parses the cell as seconds; returns nanoseconds.
    pub(crate) fn seconds(&self, column: &str) -> Result<i64, Problem> {
        let number = self.number(column)?;
        seconds_ns(number).ok_or_else(|| Problem::new(column, number, "seconds within 120 years"))
    }
}

fn quoted(cell: &str) -> String {
    format!("{cell:?}")
}
