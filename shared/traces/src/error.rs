//! What is wrong with a trace: the file, the line, the field, its value, and what was expected.

use std::path::{Path, PathBuf};

/// One wrong value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}: expected {expected}")]
pub struct Problem {
    /// Where in the line it stands.
    pub field: String,
    /// What stands there, shortened.
    pub value: String,
    /// What should stand there.
    pub expected: String,
}

const SHOWN_CHARS: usize = 80;

impl Problem {
    /// `field` holds `value`, but `expected` belongs there.
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

    /// The problem at a line of a file.
    pub(crate) fn at(self, path: &Path, line: u64) -> TraceError {
        TraceError::Line { path: path.to_owned(), line, problem: self }
    }
}

/// Why a trace could not be read. Lines count from 1.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// A file could not be opened or read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line is not what the format says.
    #[error("{path}, line {line}: {problem}")]
    Line {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: u64,
        /// What is wrong with it.
        problem: Problem,
    },
    /// The content fits none of the formats.
    #[error("{path}: starts with {found:?}, which is none of: {known} (see --format)")]
    Unknown {
        /// The file or folder.
        path: PathBuf,
        /// How it starts.
        found: String,
        /// The formats that can be read.
        known: String,
    },
    /// The content fits several formats.
    #[error("{path}: could be {}: name one with --format", .fits.join(" or "))]
    Ambiguous {
        /// The file or folder.
        path: PathBuf,
        /// The formats.
        fits: Vec<String>,
    },
    /// No record at all.
    #[error("{path}: the trace holds no request")]
    Empty {
        /// The file or folder.
        path: PathBuf,
    },
}

impl TraceError {
    pub(crate) fn io(path: &Path) -> impl Fn(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path: path.clone(), source }
    }
}
