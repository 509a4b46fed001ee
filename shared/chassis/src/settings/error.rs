//! The reasons for which settings are refused.

use std::path::PathBuf;

use config::ConfigError;

/// The reason for which the settings were refused.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum SettingsError {
    /// A key that no setting has.
    #[error("unknown setting {key} ({origin}){}", suggest(suggestion.as_deref()))]
    UnknownKey {
        key: String,
        origin: String,
        /// The nearest known key, written the way this source writes keys.
        suggestion: Option<String>,
    },
    /// A value of the wrong type or out of range.
    #[error("setting {key} = {value} ({origin}): expected {expected}")]
    Value { key: String, value: String, origin: String, expected: String },
    /// `--set` without an equals sign.
    #[error("--set {text}: expected KEY=VALUE")]
    NotAnAssignment { text: String },
    /// The configuration file cannot be read.
    #[error("configuration file {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    /// The configuration file is not TOML.
    #[error("configuration file {}: {reason}", path.display())]
    NotToml {
        path: PathBuf,
        /// The parser's message, with the line.
        reason: String,
    },
    /// The layers could not be put together.
    #[error("settings: {0}")]
    Merge(String),
}

impl SettingsError {
    pub(super) fn from_config(error: ConfigError) -> Self {
        match error {
            ConfigError::Type { origin, unexpected, expected, key } => Self::Value {
                key: key.unwrap_or_default(),
                value: unexpected.to_string(),
                origin: origin.unwrap_or_else(|| "default".to_owned()),
                expected: expected.to_owned(),
            },
            other => Self::Merge(other.to_string()),
        }
    }
}

fn suggest(suggestion: Option<&str>) -> String {
    suggestion.map(|key| format!("; did you mean {key}?")).unwrap_or_default()
}
