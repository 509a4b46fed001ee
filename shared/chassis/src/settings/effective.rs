//! The settings in force, and the origin of each value.

use std::collections::BTreeMap;
use std::fmt;

use config::Value;
use protocol::url::without_password;

use super::error::SettingsError;
use super::schema::Settings;
use super::sources::Notices;

/// One setting, its value and its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The dotted key.
    pub key: String,
    /// The value for people, passwords in URLs hidden; empty if there is none.
    pub value: String,
    /// `default`, `file PATH`, `env VARIABLE` or `flag --FLAG`.
    pub origin: String,
}

/// The settings in force; its `Display` is the table of `tandem config`.
#[derive(Debug, Clone, PartialEq)]
pub struct Effective {
    /// The settings themselves.
    pub settings: Settings,
    /// The same as a table, ordered by key.
    pub entries: Vec<Entry>,
    /// Variables of the environment that were not used.
    pub notices: Notices,
}

impl Effective {
    pub(super) fn new(
        settings: Settings,
        values: BTreeMap<String, Value>,
        notices: Notices,
    ) -> Self {
        let entries = values.into_iter().map(|(key, value)| Entry {
            origin: value.origin().unwrap_or("default").to_owned(),
            value: match value.kind {
                config::ValueKind::Nil => String::new(),
                kind => without_password(&kind.to_string()),
            },
            key,
        });
        Self { settings, entries: entries.collect(), notices }
    }

    /// Returns the origin of the value of `key`.
    pub fn origin(&self, key: &str) -> Option<&str> {
        self.entry(key).map(|entry| entry.origin.as_str())
    }

    fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    pub(super) fn reject(&self, key: &str, expected: &str) -> SettingsError {
        let entry = self.entry(key);
        SettingsError::Value {
            key: key.to_owned(),
            value: entry.map(|entry| entry.value.clone()).unwrap_or_default(),
            origin: entry.map(|entry| entry.origin.clone()).unwrap_or_default(),
            expected: expected.to_owned(),
        }
    }
}

impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |text: fn(&Entry) -> &String| {
            self.entries.iter().map(|entry| text(entry).chars().count()).max().unwrap_or(0)
        };
        let (keys, values) = (width(|entry| &entry.key), width(|entry| &entry.value));
        for Entry { key, value, origin } in &self.entries {
            writeln!(f, "{key:keys$}  {value:values$}  {origin}")?;
        }
        Ok(())
    }
}
