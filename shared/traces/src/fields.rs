//! Checked access to the fields of a JSON record.

use serde_json::{Map, Value};

use super::draft::{Draft, TOKENS_MAX};
use super::error::Problem;
use super::oddity::Oddity;
use crate::units::NS_PER_S;

/// Latest time, in seconds. 300 years and more would not fit the clock.
const SECONDS_MAX: f64 = 4e9;

/// Fields of one object.
pub(crate) struct Fields<'a> {
    object: &'a Map<String, Value>,
    within: &'a str,
}

/// Parses a line that holds one object.
pub(crate) fn object(text: &str) -> Result<Map<String, Value>, Problem> {
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Problem::new("the line", text, "a JSON object")),
        Err(error) => {
            let expected = format!("a JSON object ({error})");
            Err(Problem::new("the line", text, expected))
        }
    }
}

impl<'a> Fields<'a> {
    /// Wraps `object`, found at the path `within` of its line (empty for the line itself).
    pub(crate) fn new(object: &'a Map<String, Value>, within: &'a str) -> Self {
        Self { object, within }
    }

    /// Counts fields with other names than `known`.
    pub(crate) fn only(&self, known: &[&str], draft: &mut Draft) -> Result<(), Problem> {
        for (name, value) in self.object.iter().filter(|(name, _)| !known.contains(&name.as_str()))
        {
            let name = self.name(name);
            let expected = format!("no such field, only {}", known.join(", "));
            let problem = Problem::new(&*name, value, expected);
            draft.odd(Oddity::UnknownField(name), problem)?;
        }
        Ok(())
    }

    /// Returns the path of the field in its line.
    pub(crate) fn name(&self, field: &str) -> String {
        format!("{}{field}", self.within)
    }

    /// Returns the value of the field, unless it is missing or null.
    pub(crate) fn get(&self, field: &str) -> Option<&'a Value> {
        self.object.get(field).filter(|value| !value.is_null())
    }

    fn need(&self, field: &str, expected: &str) -> Result<&'a Value, Problem> {
        self.get(field).ok_or_else(|| Problem::new(self.name(field), "missing", expected))
    }

    /// Reads a whole number that is not negative.
    pub(crate) fn whole(&self, field: &str) -> Result<u64, Problem> {
        let expected = "a whole number, not negative";
        let value = self.need(field, expected)?;
        let number = value.as_u64().or_else(|| value.as_f64().and_then(whole));
        number.ok_or_else(|| Problem::new(self.name(field), value, expected))
    }

    /// Reads a whole number that may be negative.
    pub(crate) fn integer(&self, field: &str) -> Result<i64, Problem> {
        let expected = "a whole number";
        let value = self.need(field, expected)?;
        value.as_i64().ok_or_else(|| Problem::new(self.name(field), value, expected))
    }

    /// Reads a token count within the limits.
    pub(crate) fn tokens(&self, field: &str, least: u32) -> Result<u32, Problem> {
        let count = self.whole(field)?;
        token_count(count, least)
            .map_err(|expected| Problem::new(self.name(field), count, expected))
    }

    /// Reads a string.
    pub(crate) fn text(&self, field: &str) -> Result<&'a str, Problem> {
        let value = self.need(field, "a text")?;
        value.as_str().ok_or_else(|| Problem::new(self.name(field), value, "a text"))
    }

    /// Reads a list.
    pub(crate) fn list(&self, field: &str) -> Result<&'a Vec<Value>, Problem> {
        let value = self.need(field, "a list")?;
        value.as_array().ok_or_else(|| Problem::new(self.name(field), value, "a list"))
    }

    /// Reads a list of 64-bit ids.
    pub(crate) fn ids(&self, field: &str) -> Result<Vec<u64>, Problem> {
        let ids = self.list(field)?.iter().enumerate().map(|(at, value)| {
            value.as_u64().ok_or_else(|| {
                let expected = "a whole number, not negative, below 2^64";
                Problem::new(format!("{}[{at}]", self.name(field)), value, expected)
            })
        });
        ids.collect()
    }

    /// Reads a list of 64-bit ids; empty if the field is missing.
    pub(crate) fn optional_ids(&self, field: &str) -> Result<Vec<u64>, Problem> {
        if self.get(field).is_some() { self.ids(field) } else { Ok(Vec::new()) }
    }

    /// Reads seconds that are not negative; returns nanoseconds.
    pub(crate) fn seconds(&self, field: &str) -> Result<i64, Problem> {
        let value = self.need(field, "seconds")?;
        value.as_f64().and_then(seconds_ns).ok_or_else(|| {
            let expected = format!("seconds from 0 to {SECONDS_MAX}");
            Problem::new(self.name(field), value, expected)
        })
    }

    /// Reads seconds that no request needs.
    pub(crate) fn optional_seconds(
        &self,
        field: &str,
        draft: &mut Draft,
    ) -> Result<Option<i64>, Problem> {
        match self.get(field) {
            None => Ok(None),
            Some(_) => draft.optional(field, self.seconds(field)),
        }
    }
}

/// Returns a number without a fraction that is not negative.
pub(crate) fn whole(number: f64) -> Option<u64> {
    (number >= 0.0 && number < 2_f64.powi(53) && number.fract() == 0.0).then_some(number as u64)
}

/// Converts `seconds` to nanoseconds, if they are within the limits.
pub(crate) fn seconds_ns(seconds: f64) -> Option<i64> {
    (0.0..=SECONDS_MAX).contains(&seconds).then(|| (seconds * NS_PER_S as f64).round() as i64)
}

/// Checks that a token count is at least `least` and within the limits. The error is the expected
/// range.
pub(crate) fn token_count(count: u64, least: u32) -> Result<u32, String> {
    let tokens = u32::try_from(count).ok().filter(|n| (least..=TOKENS_MAX).contains(n));
    tokens.ok_or_else(|| format!("tokens from {least} to {TOKENS_MAX}"))
}
