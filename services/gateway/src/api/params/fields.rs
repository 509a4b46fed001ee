//! The fields of a request's JSON object, with errors that name the field and its value.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::error::ApiError;

/// Longest excerpt of a wrong value in an error message, in characters.
const EXCERPT_CHARS: usize = 60;

/// The fields of a request that have not been taken yet. `null` is the same as absent.
pub(crate) struct Fields {
    map: Map<String, Value>,
}

impl Fields {
    /// Parses the body of a request. The parser bounds nesting (128 levels).
    pub(crate) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(map)) => Ok(Self { map }),
            Ok(other) => {
                let kind = kind(&other);
                Err(ApiError::malformed(format!("body is {kind}, expected a JSON object")))
            }
            Err(error) => Err(ApiError::malformed(format!("body is not valid JSON: {error}"))),
        }
    }

    /// Takes the fields of a nested object.
    pub(crate) fn nested(&mut self, name: &str) -> Result<Option<Self>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Self { map })),
            Some(other) => Err(wrong(name, &other, "an object")),
        }
    }

    /// Takes a field as it is.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|value| !value.is_null())
    }

    /// Returns a field without taking it.
    pub(crate) fn peek(&self, name: &str) -> Option<&Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// Takes a number within `range`.
    pub(crate) fn number(
        &mut self,
        name: &str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f32>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = value.as_f64().ok_or_else(|| wrong(name, &value, "a number"))?;
        if !range.contains(&number) {
            let (low, high) = range.into_inner();
            return Err(wrong(name, &value, &format!("{low} to {high}")));
        }
        Ok(Some(number as f32))
    }

    /// Takes an integer within `range`; `16.0` counts as one.
    pub(crate) fn integer(
        &mut self,
        name: &str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        integer(name, &value, range).map(Some)
    }

    /// Takes a truth value.
    pub(crate) fn boolean(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(wrong(name, &other, "true or false")),
        }
    }

    /// Takes a text of at most `bytes_max` bytes.
    pub(crate) fn text(
        &mut self,
        name: &str,
        bytes_max: usize,
    ) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) if text.len() <= bytes_max => Ok(Some(text)),
            Some(Value::String(text)) => {
                let bytes = text.len();
                let message = format!("{name} has {bytes} bytes, expected at most {bytes_max}");
                Err(ApiError::invalid(name, message))
            }
            Some(other) => Err(wrong(name, &other, "a string")),
        }
    }

    /// Returns the names of the fields that were not taken: they are unknown and ignored.
    pub(crate) fn unknown(&self) -> impl Iterator<Item = &str> {
        self.map.keys().map(String::as_str)
    }
}

/// Reads an integer within `range`.
pub(crate) fn integer(
    name: &str,
    value: &Value,
    range: RangeInclusive<i64>,
) -> Result<i64, ApiError> {
    let number = value.as_i64().or_else(|| {
        let number = value.as_f64()?;
        let is_whole = number.fract() == 0.0 && number.abs() <= 2f64.powi(53);
        is_whole.then_some(number as i64)
    });
    match number {
        Some(number) if range.contains(&number) => Ok(number),
        Some(_) => {
            let (low, high) = range.into_inner();
            Err(wrong(name, value, &format!("an integer from {low} to {high}")))
        }
        None => Err(wrong(name, value, "an integer")),
    }
}

/// Returns 400: `name` is `value`, but something else was expected.
pub(crate) fn wrong(name: &str, value: &Value, expected: &str) -> ApiError {
    let mut shown: String = match value {
        Value::Array(_) | Value::Object(_) => kind(value).to_owned(),
        scalar => scalar.to_string().chars().take(EXCERPT_CHARS + 1).collect(),
    };
    if let Some((end, _)) = shown.char_indices().nth(EXCERPT_CHARS) {
        shown.replace_range(end.., "…");
    }
    ApiError::invalid(name, format!("{name} is {shown}, expected {expected}"))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
