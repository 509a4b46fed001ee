//! The known keys, the type of each, and the nearest one to a misspelled one.

use std::collections::BTreeMap;

use config::{Map, Value, ValueKind};

use super::error::SettingsError;
use super::key::{Key, join};
use super::schema::Settings;
use super::sources::{Layer, Spelling};

/// Returns nested tables as one map of dotted keys.
pub(super) fn flatten(table: Map<String, Value>) -> BTreeMap<String, Value> {
    let mut flat = BTreeMap::new();
    flatten_into(&mut flat, "", table);
    flat
}

fn flatten_into(flat: &mut BTreeMap<String, Value>, prefix: &str, table: Map<String, Value>) {
    for (name, value) in table {
        let key = join(prefix, &name);
        match value.kind {
            ValueKind::Table(inner) if !inner.is_empty() => flatten_into(flat, &key, inner),
            _ => drop(flat.insert(key, value)),
        }
    }
}

/// Every key of the schema.
pub(super) struct KnownKeys {
    keys: BTreeMap<String, Key>,
}

impl KnownKeys {
    pub(super) fn new() -> Self {
        let keys = Settings::default().keys().into_iter().map(|key| (key.key.clone(), key));
        Self { keys: keys.collect() }
    }

    /// Refuses the first key of `layer` that is unknown or whose value has the wrong type.
    pub(super) fn check(&self, layer: &Layer) -> Result<(), SettingsError> {
        for (key, value) in &layer.values {
            let origin = value.origin().unwrap_or_default().to_owned();
            let expected = match self.keys.get(key) {
                Some(known) if known.kind.accepts(&value.kind) => continue,
                Some(known) => known.expected_type(),
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
        let section = format!("{key}.");
        self.keys.keys().any(|known| known.starts_with(&section))
    }

    /// Returns the known key that `key` most likely means, if any is near.
    fn nearest(&self, key: &str) -> Option<&str> {
        let limit = (key.len() / 3).clamp(1, 6);
        let distances = self.keys.keys().map(|known| (distance(known, key), known));
        let (distance, best) = distances.min_by_key(|(distance, _)| *distance)?;
        (distance <= limit).then_some(best.as_str())
    }
}

/// Returns how many letters separate two keys: none where only the section is missing, or where
/// `key` nests under a value.
fn distance(known: &str, key: &str) -> usize {
    let name = known.rsplit('.').next().unwrap_or(known);
    if name == key || key.starts_with(&format!("{known}.")) {
        return 0;
    }
    strsim::damerau_levenshtein(known, key).min(strsim::damerau_levenshtein(name, key))
}
