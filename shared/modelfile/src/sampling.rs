//! Sampling parameters that a model's publisher recommends: `generation_config.json` beside
//! safetensors, `general.sampling.*` in GGUF metadata.

use crate::error::ModelFileError;
use crate::value::{Metadata, Value};
use serde_json::Value as Json;
use std::ops::RangeInclusive;

/// The sampling parameters of a model's files; `None` where the files are silent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SamplingDefaults {
    /// Divisor of the logits; 0 takes the most likely token.
    pub temperature: Option<f32>,
    /// Share of the probability that is kept.
    pub top_p: Option<f32>,
    /// Number of most likely tokens that are kept; 0 keeps all.
    pub top_k: Option<u32>,
    /// Share of the highest probability below which a token is dropped.
    pub min_p: Option<f32>,
    /// Divisor of the logits of tokens that occurred before.
    pub repetition_penalty: Option<f32>,
}

/// A parameter's names and range. GGUF's names are those of llama.cpp's converter, which copies
/// `generation_config.json`.
struct Field {
    json: &'static str,
    gguf: &'static str,
    range: RangeInclusive<f64>,
    /// `range` in words.
    expected: &'static str,
}

const TEMPERATURE: Field = Field {
    json: "temperature",
    gguf: "general.sampling.temp",
    range: 0.0..=100.0,
    expected: "0 to 100",
};
const TOP_P: Field = Field {
    json: "top_p",
    gguf: "general.sampling.top_p",
    range: f64::MIN_POSITIVE..=1.0,
    expected: "above 0 and at most 1",
};
/// Files turn the limit off with 0 or with -1.
const TOP_K: Field = Field {
    json: "top_k",
    gguf: "general.sampling.top_k",
    range: -1.0..=i32::MAX as f64,
    expected: "-1 to 2147483647",
};
const MIN_P: Field =
    Field { json: "min_p", gguf: "general.sampling.min_p", range: 0.0..=1.0, expected: "0 to 1" };
const REPETITION_PENALTY: Field = Field {
    json: "repetition_penalty",
    gguf: "general.sampling.penalty_repeat",
    range: f64::MIN_POSITIVE..=100.0,
    expected: "above 0 and at most 100",
};

impl SamplingDefaults {
    /// Reads the content of `generation_config.json`; `Null` stands for a missing file.
    pub(crate) fn from_json(config: &Json) -> Result<Self, ModelFileError> {
        Self::read(|field| match &config[field.json] {
            Json::Null => Ok(None),
            Json::Number(number) => field.checked(field.json, number.as_f64()),
            other => Err(field.not_a_number(field.json, &other.to_string())),
        })
    }

    /// Reads the metadata of a GGUF file.
    pub(crate) fn from_gguf(metadata: &Metadata) -> Result<Self, ModelFileError> {
        Self::read(|field| match metadata.0.get(field.gguf) {
            None => Ok(None),
            Some(Value::Int(number)) => field.checked(field.gguf, Some(*number as f64)),
            Some(Value::Float(number)) => field.checked(field.gguf, Some(*number)),
            Some(other) => Err(field.not_a_number(field.gguf, &format!("{other:?}"))),
        })
    }

    fn read(
        value: impl Fn(&Field) -> Result<Option<f64>, ModelFileError>,
    ) -> Result<Self, ModelFileError> {
        let number = |field| Ok(value(&field)?.map(|number| number as f32));
        Ok(Self {
            temperature: number(TEMPERATURE)?,
            top_p: number(TOP_P)?,
            top_k: value(&TOP_K)?.map(|number| number.max(0.0) as u32),
            min_p: number(MIN_P)?,
            repetition_penalty: number(REPETITION_PENALTY)?,
        })
    }

    /// Returns true if the files recommend nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Field {
    fn checked(&self, name: &str, number: Option<f64>) -> Result<Option<f64>, ModelFileError> {
        match number {
            Some(number) if self.range.contains(&number) => Ok(Some(number)),
            _ => {
                let number = number.unwrap_or(f64::NAN);
                let problem = format!("is {number}, expected {}", self.expected);
                Err(ModelFileError::field(name, problem))
            }
        }
    }

    fn not_a_number(&self, name: &str, value: &str) -> ModelFileError {
        let value: String = value.chars().take(40).collect();
        ModelFileError::field(name, format!("is {value}, expected a number"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const EVERYTHING: SamplingDefaults = SamplingDefaults {
        temperature: Some(0.7),
        top_p: Some(0.8),
        top_k: Some(20),
        min_p: Some(0.05),
        repetition_penalty: Some(1.05),
    };

    #[test]
    fn both_formats_carry_every_parameter() {
        let config = json!({
            "do_sample": true, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "min_p": 0.05,
            "repetition_penalty": 1.05, "eos_token_id": [1, 2],
        });
        assert_eq!(SamplingDefaults::from_json(&config).unwrap(), EVERYTHING);
        let float = |value: f32| Value::Float(value.into());
        let metadata = Metadata(
            [
                ("general.sampling.temp", float(0.7)),
                ("general.sampling.top_p", float(0.8)),
                ("general.sampling.top_k", Value::Int(20)),
                ("general.sampling.min_p", float(0.05)),
                ("general.sampling.penalty_repeat", float(1.05)),
            ]
            .map(|(key, value)| (key.to_owned(), value))
            .into(),
        );
        assert_eq!(SamplingDefaults::from_gguf(&metadata).unwrap(), EVERYTHING);
    }

    #[test]
    fn silence_and_null_recommend_nothing() {
        for config in [Json::Null, json!({ "eos_token_id": 2, "temperature": null })] {
            assert!(SamplingDefaults::from_json(&config).unwrap().is_empty(), "{config}");
        }
        assert!(SamplingDefaults::from_gguf(&Metadata::default()).unwrap().is_empty());
    }

    #[test]
    fn minus_one_keeps_all_tokens_as_zero_does() {
        for top_k in [-1, 0] {
            let defaults = SamplingDefaults::from_json(&json!({ "top_k": top_k })).unwrap();
            assert_eq!(defaults.top_k, Some(0));
        }
    }

    #[test]
    fn a_value_that_no_sampler_can_use_is_named() {
        for (config, expected) in [
            (json!({ "temperature": -1.0 }), "field temperature: is -1, expected 0 to 100"),
            (json!({ "top_k": "many" }), "field top_k: is \"many\", expected a number"),
            (json!({ "min_p": 1.5 }), "field min_p: is 1.5, expected 0 to 1"),
        ] {
            let error = SamplingDefaults::from_json(&config).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
        let metadata = [("general.sampling.top_p".to_owned(), Value::Float(f64::NAN))];
        let error = SamplingDefaults::from_gguf(&Metadata(metadata.into())).unwrap_err();
        assert!(error.to_string().starts_with("field general.sampling.top_p: is NaN"), "{error}");
    }
}
