//! Metadata values of a GGUF header.

use crate::error::ModelFileError;
use std::collections::BTreeMap;

/// One metadata value; arrays are kept by kind, never as boxed elements.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Any integer type.
    Int(i128),
    /// Single or double precision.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// Text.
    Text(String),
    /// An array of any integer type or of truth values.
    Ints(Vec<i64>),
    /// An array of floating-point numbers.
    Floats(Vec<f32>),
    /// An array of text.
    Texts(Vec<String>),
}

/// The metadata of a file by key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metadata(pub(crate) BTreeMap<String, Value>);

fn wrong(key: &str, wanted: &str) -> ModelFileError {
    ModelFileError::field(key, format!("is not {wanted}"))
}

fn missing(key: &str) -> ModelFileError {
    ModelFileError::field(key, "is missing")
}

impl Metadata {
    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>, ModelFileError> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Err(wrong(key, "text")),
        }
    }

    /// Returns an integer within `1..=most`.
    pub(crate) fn count(&self, key: &str, most: usize) -> Result<Option<usize>, ModelFileError> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::Int(n)) => match usize::try_from(*n) {
                Ok(n) if (1..=most).contains(&n) => Ok(Some(n)),
                _ => Err(ModelFileError::field(key, format!("is {n}, outside 1..={most}"))),
            },
            Some(_) => Err(wrong(key, "an integer")),
        }
    }

    /// Returns an integer up to `most`, where 0 says the same as no key.
    pub(crate) fn count_or_zero(
        &self,
        key: &str,
        most: usize,
    ) -> Result<Option<usize>, ModelFileError> {
        match self.0.get(key) {
            Some(Value::Int(0)) => Ok(None),
            _ => self.count(key, most),
        }
    }

    pub(crate) fn need_count(&self, key: &str, most: usize) -> Result<usize, ModelFileError> {
        self.count(key, most)?.ok_or_else(|| missing(key))
    }

    /// Returns a token id below `vocab`; files that mark "none" with an id outside get nothing.
    pub(crate) fn token(&self, key: &str, vocab: usize) -> Result<Option<u32>, ModelFileError> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::Int(n)) => Ok(u32::try_from(*n).ok().filter(|&id| (id as usize) < vocab)),
            Some(_) => Err(wrong(key, "an integer")),
        }
    }

    /// Returns a finite number above zero.
    pub(crate) fn positive(&self, key: &str) -> Result<Option<f32>, ModelFileError> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::Float(x)) if x.is_finite() && *x > 0.0 => Ok(Some(*x as f32)),
            Some(Value::Float(x)) => {
                Err(ModelFileError::field(key, format!("is {x}, not positive")))
            }
            Some(_) => Err(wrong(key, "a floating-point number")),
        }
    }

    pub(crate) fn bool(&self, key: &str) -> Result<Option<bool>, ModelFileError> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(wrong(key, "a truth value")),
        }
    }

    pub(crate) fn texts(&self, key: &str) -> Result<Option<&[String]>, ModelFileError> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::Texts(texts)) => Ok(Some(texts)),
            Some(_) => Err(wrong(key, "an array of text")),
        }
    }

    pub(crate) fn need_texts(&self, key: &str) -> Result<&[String], ModelFileError> {
        self.texts(key)?.ok_or_else(|| missing(key))
    }

    pub(crate) fn ints(&self, key: &str) -> Result<Option<&[i64]>, ModelFileError> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::Ints(ints)) => Ok(Some(ints)),
            Some(_) => Err(wrong(key, "an array of integers")),
        }
    }

    pub(crate) fn floats(&self, key: &str) -> Result<Option<&[f32]>, ModelFileError> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::Floats(floats)) => Ok(Some(floats)),
            Some(_) => Err(wrong(key, "an array of floating-point numbers")),
        }
    }
}
