//! CSV files with checked columns and cells.

use std::path::{Path, PathBuf};

use csv::StringRecord;

use super::draft::Draft;
use super::error::{Problem, TraceError};
use super::fields::{seconds_ns, token_count};
use super::input::Guarded;

/// A CSV file with a valid header.
pub(crate) struct Table {
    reader: csv::Reader<Guarded>,
    path: PathBuf,
    header: Vec<String>,
    /// Number of the last line read.
    line: u64,
}

/// A row of a table.
pub(crate) struct Row<'a> {
    header: &'a [String],
    cells: StringRecord,
    /// Number of the line in the file, from 1.
    pub(crate) line: u64,
}

/// Splits a header line into column names, without a byte-order mark.
pub(crate) fn header_of(line: &str) -> Vec<String> {
    let line = line.trim_start_matches('\u{feff}').trim_end();
    line.split(',').map(|name| name.trim().to_owned()).collect()
}

impl Table {
    /// Opens a file that has the columns `needed`, perhaps those of `allowed`, and no other.
    pub(crate) fn open(path: &Path, needed: &[&str], allowed: &[&str]) -> Result<Self, TraceError> {
        let mut table = Self::without_header(path, &[])?;
        let Some(row) = table.next_row()? else {
            return Err(TraceError::Empty { path: path.to_owned() });
        };
        let line: Vec<&str> = row.cells.iter().collect();
        let header = header_of(&line.join(","));
        let known =
            header.iter().all(|name| needed.contains(&&**name) || allowed.contains(&&**name));
        let mut once = header.clone();
        once.sort_unstable();
        once.dedup();
        let whole = needed.iter().all(|name| header.iter().any(|column| column == name));
        if !whole || !known || once.len() < header.len() {
            let expected = format!("the columns {}", needed.join(","));
            return Err(Problem::new("the header", header.join(","), expected).at(path, row.line));
        }
        table.header = header;
        Ok(table)
    }

    /// Passes every remaining row to `take`, and adds the digest of the file to `draft`.
    pub(crate) fn drain(
        mut self,
        draft: &mut Draft,
        mut take: impl FnMut(&Row<'_>, &mut Draft) -> Result<(), Problem>,
    ) -> Result<(), TraceError> {
        let path = self.path.clone();
        while let Some(row) = self.next_row()? {
            take(&row, draft).map_err(|problem| problem.at(&path, row.line))?;
        }
        draft.add_digest(self.digest());
        Ok(())
    }

    /// Opens a file without a header whose columns are `names`.
    pub(crate) fn without_header(path: &Path, names: &[&str]) -> Result<Self, TraceError> {
        let reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .quoting(false)
            // A carriage return before the end of a line is trimmed with the spaces around a cell.
            .terminator(csv::Terminator::Any(b'\n'))
            .from_reader(Guarded::open(path, true)?);
        let header = names.iter().map(|name| (*name).to_owned()).collect();
        Ok(Self { reader, path: path.to_owned(), header, line: 0 })
    }

    /// Reads the next row; `None` at the end of the file.
    pub(crate) fn next_row(&mut self) -> Result<Option<Row<'_>>, TraceError> {
        let mut cells = StringRecord::new();
        let line = self.reader.position().line();
        match self.reader.read_record(&mut cells) {
            Ok(false) => Ok(None),
            Ok(true) => {
                let line = cells.position().map_or(line, csv::Position::line);
                self.line += 1;
                if line > self.line {
                    return Err(
                        Problem::new("the line", "empty", "a row").at(&self.path, self.line)
                    );
                }
                let row = Row { header: &self.header, cells, line };
                if !self.header.is_empty() && row.cells.len() != self.header.len() {
                    let expected = format!("{} columns", self.header.len());
                    let found = format!("{} columns", row.cells.len());
                    return Err(Problem::new("the row", found, expected).at(&self.path, line));
                }
                Ok(Some(row))
            }
            Err(error) => Err(self.refuse(error, line)),
        }
    }

    fn refuse(&self, error: csv::Error, line: u64) -> TraceError {
        let line = error.position().map_or(line, csv::Position::line);
        match error.into_kind() {
            csv::ErrorKind::Io(error) => {
                Problem::new("the line", error, "lines and files within the limits")
                    .at(&self.path, line)
            }
            csv::ErrorKind::Utf8 { err, .. } => {
                Problem::new("the line", err, "UTF-8").at(&self.path, line)
            }
            _ => Problem::new("the line", "broken", "a CSV row").at(&self.path, line),
        }
    }

    /// Returns the digest of everything read so far.
    pub(crate) fn digest(self) -> [u8; 32] {
        self.reader.into_inner().digest()
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
        let expected = "a whole number, not negative";
        cell.parse().map_err(|_| Problem::new(column, quoted(cell), expected))
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
