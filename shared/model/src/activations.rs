//! The precision of a quantized layer's inputs on the CPU: configured, or chosen by the size of the
//! model.

use std::fmt;
use std::str::FromStr;

use kernels::Precision;

/// Parameters from which on `auto` takes `int8`. Larger models lose less by rounding, and every
/// multiplication counts more.
pub const INT8_PARAMETERS_MIN: u64 = 2_000_000_000;

/// The precision that configuration asks for: `auto`, `int8` or `int16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ActivationsChoice {
    /// `int16` below [`INT8_PARAMETERS_MIN`] parameters, `int8` from there on.
    #[default]
    Auto,
    /// The given one.
    Only(Precision),
}

/// A text that names no precision.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("precision of activations {text:?} is not auto, int8 or int16")]
pub struct ParseActivationsError {
    text: String,
}

/// The precision in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedActivations {
    /// The precision.
    pub precision: Precision,
    /// The reason why it was taken.
    pub reason: String,
}

impl ActivationsChoice {
    /// Returns the precision for a model of `parameters` parameters, and the reason.
    pub fn resolve(self, parameters: u64) -> ResolvedActivations {
        let (precision, relation) = match self {
            Self::Only(precision) => {
                return ResolvedActivations { precision, reason: "configured".to_owned() };
            }
            Self::Auto if parameters < INT8_PARAMETERS_MIN => (Precision::Int16, "below"),
            Self::Auto => (Precision::Int8, "at least"),
        };
        let reason = format!(
            "auto: {:.2} billion parameters, {relation} {}",
            parameters as f64 / 1e9,
            INT8_PARAMETERS_MIN / 1_000_000_000
        );
        ResolvedActivations { precision, reason }
    }
}

impl FromStr for ActivationsChoice {
    type Err = ParseActivationsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.parse()) {
            ("auto", _) => Ok(Self::Auto),
            (_, Ok(precision)) => Ok(Self::Only(precision)),
            (_, Err(_)) => Err(ParseActivationsError { text: text.to_owned() }),
        }
    }
}

impl fmt::Display for ActivationsChoice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => formatter.write_str("auto"),
            Self::Only(precision) => precision.fmt(formatter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back() {
        for text in ["auto", "int8", "int16"] {
            assert_eq!(text.parse::<ActivationsChoice>().unwrap().to_string(), text);
        }
        assert!("int4".parse::<ActivationsChoice>().is_err());
    }

    #[test]
    fn auto_goes_by_the_number_of_parameters() {
        let small = ActivationsChoice::Auto.resolve(134_515_008);
        assert_eq!(small.precision, Precision::Int16);
        assert_eq!(small.reason, "auto: 0.13 billion parameters, below 2");
        let last = ActivationsChoice::Auto.resolve(INT8_PARAMETERS_MIN - 1);
        assert_eq!(last.precision, Precision::Int16);
        let large = ActivationsChoice::Auto.resolve(INT8_PARAMETERS_MIN);
        assert_eq!(large.precision, Precision::Int8);
        assert_eq!(large.reason, "auto: 2.00 billion parameters, at least 2");
    }

    #[test]
    fn a_configured_precision_holds_for_every_model() {
        for precision in Precision::ALL {
            for parameters in [1, 70_000_000_000] {
                let resolved = ActivationsChoice::Only(precision).resolve(parameters);
                assert_eq!((resolved.precision, &*resolved.reason), (precision, "configured"));
            }
        }
    }
}
