//! Reasons to refuse a model file.

use std::path::{Path, PathBuf};

/// The reason why a model file could not be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum ModelFileError {
    /// The operating system refused.
    #[error("read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A header field is missing, malformed or out of bounds.
    #[error("field {field}: {problem}")]
    Field {
        /// The field, as the file names it.
        field: String,
        /// The defect.
        problem: String,
    },
    /// A tensor is missing, malformed or out of bounds.
    #[error("tensor {tensor}: {problem}")]
    Tensor {
        /// The tensor.
        tensor: String,
        /// The defect.
        problem: String,
    },
    /// One file of several that make a model is missing, or not the one that it should be.
    #[error("{}: {problem}", path.display())]
    Part {
        /// The file.
        path: PathBuf,
        /// The defect.
        problem: String,
    },
    /// The file is sound, but asks for something that is not implemented.
    #[error("not supported: {what}")]
    Unsupported {
        /// The feature that it asks for.
        what: String,
    },
    /// The vocabulary or its rules do not make a tokenizer.
    #[error("tokenizer: {problem}")]
    Tokenizer {
        /// The defect.
        problem: String,
    },
}

impl ModelFileError {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), source }
    }

    pub(crate) fn field(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Field { field: field.into(), problem: problem.into() }
    }

    pub(crate) fn tensor(tensor: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Tensor { tensor: tensor.into(), problem: problem.into() }
    }

    pub(crate) fn part(path: &Path, problem: impl Into<String>) -> Self {
        Self::Part { path: path.to_path_buf(), problem: problem.into() }
    }

    pub(crate) fn unsupported(what: impl Into<String>) -> Self {
        Self::Unsupported { what: what.into() }
    }

    pub(crate) fn tokenizer(problem: impl std::fmt::Display) -> Self {
        Self::Tokenizer { problem: problem.to_string() }
    }
}
