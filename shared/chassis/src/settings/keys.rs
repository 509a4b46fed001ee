//! The known keys, the type of each, and the nearest one to a misspelt one.

use std::collections::BTreeMap;

use config::{Config, Map, Source as _, Value, ValueKind};

use super::error::SettingsError;
use super::schema::Settings;
use super::sources::{Layer, Spelling};

/// Nested tables as one list of dotted keys.
pub(super) fn flatten(table: Map<String, Value>) -> BTreeMap<String, Value> {
    let mut flat = BTreeMap::new();
    flatten_into(&mut flat, "", table);
    flat
}

fn flatten_into(flat: &mut BTreeMap<String, Value>, prefix: &str, table: Map<String, Value>) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        match value.kind {
            ValueKind::Table(inner) if !inner.is_empty() => flatten_into(flat, &key, inner),
            _ => drop(flat.insert(key, value)),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Boolean,
    Integer,
    Number,
    Text,
}

impl Type {
    fn of(kind: &ValueKind) -> Self {
        match kind {
            ValueKind::Boolean(_) => Self::Boolean,
            ValueKind::Float(_) => Self::Number,
            ValueKind::I64(_) | ValueKind::U64(_) | ValueKind::I128(_) | ValueKind::U128(_) => {
                Self::Integer
            }
            _ => Self::Text,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Boolean => "true or false",
            Self::Integer => "a whole number, 0 or more",
            Self::Number => "a number",
            Self::Text => "text",
        }
    }

    /// Environment and flags give text for every type; a file gives the type itself.
    fn accepts(self, kind: &ValueKind) -> bool {
        match (self, kind) {
            (Self::Text, ValueKind::String(_)) | (Self::Boolean, ValueKind::Boolean(_)) => true,
            (Self::Boolean, ValueKind::String(text)) => text.parse::<bool>().is_ok(),
            (Self::Integer, ValueKind::String(text)) => text.parse::<u64>().is_ok(),
            (Self::Integer, ValueKind::I64(value)) => *value >= 0,
            (Self::Integer, ValueKind::U64(_)) => true,
            (Self::Number, ValueKind::String(text)) => text.parse().is_ok_and(f64::is_finite),
            (Self::Number, ValueKind::Float(value)) => value.is_finite(),
            (Self::Number, ValueKind::I64(_) | ValueKind::U64(_)) => true,
            _ => false,
        }
    }
}

/// Every key of the schema.
pub(super) struct KnownKeys {
    types: BTreeMap<String, Type>,
}

impl KnownKeys {
    pub(super) fn new() -> Self {
        let filled = Config::try_from(&Settings::filled()).expect("the settings are plain data");
        let table = filled.collect().expect("the settings are a table");
        let types = flatten(table).into_iter().map(|(key, value)| (key, Type::of(&value.kind)));
        Self { types: types.collect() }
    }

    /// Refuses the first key of `layer` that is unknown or whose value has the wrong type.
    pub(super) fn check(&self, layer: &Layer) -> Result<(), SettingsError> {
        for (key, value) in &layer.values {
            let origin = value.origin().unwrap_or_default().to_owned();
            let expected = match self.types.get(key) {
                Some(known) if known.accepts(&value.kind) => continue,
                Some(known) => known.name().to_owned(),
                None if self.is_section(key) => match &value.kind {
                    ValueKind::Table(_) => continue,
                    _ => format!("a section, [{key}]"),
                },
                None => {
                    let spelling = Spelling::of(&origin);
                    let suggestion = self.nearest(key).map(|near| spelling.write(near));
                    return Err(SettingsError::UnknownKey { key: key.clone(), origin, suggestion });
                }
            };
            let value = value.to_string();
            return Err(SettingsError::Value { key: key.clone(), value, origin, expected });
        }
        Ok(())
    }

    fn is_section(&self, key: &str) -> bool {
        let inside =
            |known: &String| known.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'));
        self.types.keys().any(inside)
    }

    /// The known key that `key` most likely means, if any is near.
    fn nearest(&self, key: &str) -> Option<&str> {
        let limit = (key.len() / 3).clamp(1, 6);
        let distance = |known: &&String| {
            // Whoever forgets the section, or nests under a value, still finds the key.
            let name = known.rsplit('.').next().unwrap_or(known);
            if name == key || key.starts_with(&format!("{known}.")) {
                return 0;
            }
            strsim::damerau_levenshtein(known, key).min(strsim::damerau_levenshtein(name, key))
        };
        let best = self.types.keys().min_by_key(distance)?;
        (distance(&best) <= limit).then_some(best)
    }
}
