//! How finely the inputs of linear layers are rounded before they meet quantised weights.

use std::fmt;
use std::str::FromStr;

/// What activations are rounded to; sums are exact either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Precision {
    /// 8 bits with a scale for every 32.
    #[default]
    Int8,
    /// Twice 8 bits: what the first leaves is rounded again, with a scale of its own. As good as
    /// single precision, for twice the multiplications.
    Int16,
}

/// A text that names no precision.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("precision of activations {text:?} is not int8 or int16")]
pub struct ParsePrecisionError {
    text: String,
}

impl Precision {
    /// Both, coarsest first.
    pub const ALL: [Self; 2] = [Self::Int8, Self::Int16];

    /// Rows in 8 bits that stand for a row.
    pub(crate) fn planes(self) -> usize {
        match self {
            Self::Int8 => 1,
            Self::Int16 => 2,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Int8 => "int8",
            Self::Int16 => "int16",
        })
    }
}

impl FromStr for Precision {
    type Err = ParsePrecisionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|precision| precision.to_string() == text);
        found.ok_or_else(|| ParsePrecisionError { text: text.to_owned() })
    }
}
