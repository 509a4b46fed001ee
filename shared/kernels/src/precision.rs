//! The precision to which inputs of linear layers are rounded before they meet quantized weights.

use std::fmt;
use std::str::FromStr;

/// Integers that activations are rounded to; sums are exact either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Precision {
    /// 8 bits with a scale for every 32.
    #[default]
    Int8,
    /// 16 bits with a scale for every 32: as good as single precision.
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
