//! The choice of instructions for the CPU's kernels.

use std::fmt;
use std::str::FromStr;

/// The instruction set that configuration asks for: `auto`, `avx512`, `avx2` or `portable`. All of
/// them compute the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum IsaChoice {
    /// The widest that the machine has.
    #[default]
    Auto,
    /// The given one.
    Only(kernels::Isa),
}

/// A text that names no instruction set.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("instruction set {text:?} is not auto, avx512, avx2 or portable")]
pub struct ParseIsaChoiceError {
    text: String,
}

impl IsaChoice {
    /// Returns the instruction set that this choice leads to.
    pub(crate) fn isa(self) -> kernels::Isa {
        match self {
            Self::Auto => kernels::Isa::best(),
            Self::Only(isa) => isa,
        }
    }
}

impl FromStr for IsaChoice {
    type Err = ParseIsaChoiceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.parse()) {
            ("auto", _) => Ok(Self::Auto),
            (_, Ok(isa)) => Ok(Self::Only(isa)),
            (_, Err(_)) => Err(ParseIsaChoiceError { text: text.to_owned() }),
        }
    }
}

impl fmt::Display for IsaChoice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => formatter.write_str("auto"),
            Self::Only(isa) => isa.fmt(formatter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back() {
        for text in ["auto", "avx512", "avx2", "portable"] {
            assert_eq!(text.parse::<IsaChoice>().unwrap().to_string(), text);
        }
        assert!("sse9".parse::<IsaChoice>().is_err());
    }
}
