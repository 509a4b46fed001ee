//! Errors of traces, with the file, the line, the field, its value and the expected value.

use std::path::{Path, PathBuf};

/// A wrong value in a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}: expected {expected}")]
pub struct Problem {
    /// Field of the line.
    pub field: String,
    /// Value of the field, shortened.
    pub value: String,
    /// Expected value.
    pub expected: String,
}

const SHOWN_CHARS: usize = 80;

impl Problem {
    /// Describes a `field` that has `value` instead of `expected`.
    pub fn new(
        field: impl Into<String>,
        value: impl ToString,
        expected: impl Into<String>,
    ) -> Self {
        let value = value.to_string();
        let mut shown: String = value.chars().take(SHOWN_CHARS).collect();
        if shown.len() < value.len() {
            shown.push('…');
        }
        Self { field: field.into(), value: shown, expected: expected.into() }
    }

    /// Locates the problem at a line of a file.
    pub(crate) fn at(self, path: &Path, line: u64) -> TraceError {
        TraceError::Line { path: path.to_owned(), line, problem: self }
    }
}

/// A trace that could not be read. Lines count from 1.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message of a variant names its fields")]
pub enum TraceError {
    /// A file could not be opened or read.
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    /// A line violates the format.
    #[error("{path}, line {line}: {problem}")]
    Line { path: PathBuf, line: u64, problem: Problem },
    /// The content fits none of the formats.
    #[error("{path}: starts with {found:?}, which is none of: {known} (see --format)")]
    Unknown { path: PathBuf, found: String, known: String },
    /// The content fits several formats.
    #[error("{path}: could be {}: name one with --format", .fits.join(" or "))]
    Ambiguous { path: PathBuf, fits: Vec<String> },
    /// The trace has no record.
    #[error("{path}: the trace holds no request")]
    Empty { path: PathBuf },
}

impl TraceError {
    pub(crate) fn io(path: &Path) -> impl Fn(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path: path.clone(), source }
    }
}
