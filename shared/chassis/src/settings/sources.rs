//! Where settings come from, each as a layer of values that remember their origin.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use config::{ConfigError, File, FileFormat, Map, Source, Value, ValueKind};

use super::error::SettingsError;
use super::{keys::flatten, layer_of};

const PREFIX: &str = "TANDEM_";
/// The file that is read when none is named and it exists.
const DEFAULT_FILE: &str = "tandem.toml";
/// Variables with our prefix that are not settings of a service.
const NOT_SETTINGS: [&str; 3] = ["TANDEM_CONFIG", "TANDEM_CACHE", "TANDEM_REQUIRE"];
/// Names that others agreed on, weaker than our own; the later one wins.
const FOREIGN: [(&str, &str); 2] = [
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "telemetry.otlp_endpoint"),
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "telemetry.otlp_endpoint"),
];

/// One setting given on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// The dotted key.
    pub key: String,
    /// The value as text.
    pub value: String,
    /// The flag as the user wrote it, such as `--device`.
    pub flag: String,
}

/// All that settings are made of, besides the defaults.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The TOML file that must exist, if one is named.
    pub file: Option<PathBuf>,
    /// The TOML file that is read if it exists and no other is named.
    pub default_file: Option<PathBuf>,
    /// Environment variables.
    pub environment: BTreeMap<String, String>,
    /// Flags, the last one for a key wins.
    pub flags: Vec<Flag>,
}

impl Sources {
    /// The environment of this process, `tandem.toml` in its directory, and `flags`.
    pub fn of_process(file: Option<PathBuf>, flags: Vec<Flag>) -> Self {
        let environment: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let named = environment.get("TANDEM_CONFIG").filter(|value| !value.is_empty());
        let file = file.or_else(|| named.map(PathBuf::from));
        Self { file, default_file: Some(PathBuf::from(DEFAULT_FILE)), environment, flags }
    }

    /// The layers, weakest first.
    pub(super) fn layers(&self) -> Result<Vec<Layer>, SettingsError> {
        let mut layers = Vec::new();
        let default_file = self.default_file.as_ref().filter(|path| path.exists());
        if let Some(path) = self.file.as_ref().or(default_file) {
            layers.push(file_layer(path)?);
        }
        layers.push(self.foreign_layer());
        layers.push(self.environment_layer());
        layers.push(self.flag_layer());
        Ok(layers)
    }

    fn foreign_layer(&self) -> Layer {
        let given = |name: &str| self.environment.get(name).filter(|value| !value.is_empty());
        let value =
            |(name, key): (&str, &str)| Some((key.to_owned(), env_value(name, given(name)?)));
        layer_of(FOREIGN.into_iter().filter_map(value).collect())
    }

    fn environment_layer(&self) -> Layer {
        // An empty variable means "not set": compose files write `TANDEM_X=${X:-}`.
        let ours = self.environment.iter().filter(|(name, value)| {
            name.starts_with(PREFIX) && !NOT_SETTINGS.contains(&name.as_str()) && !value.is_empty()
        });
        let value = |(name, value): (&String, &String)| {
            let key = name[PREFIX.len()..].to_ascii_lowercase().replace("__", ".");
            (key, env_value(name, value))
        };
        layer_of(ours.map(value).collect())
    }

    fn flag_layer(&self) -> Layer {
        let value = |flag: &Flag| {
            let origin = format!("flag {}", flag.flag);
            (flag.key.clone(), Value::new(Some(&origin), flag.value.as_str()))
        };
        layer_of(self.flags.iter().map(value).collect())
    }
}

fn env_value(name: &str, value: &str) -> Value {
    Value::new(Some(&format!("env {name}")), value)
}

fn file_layer(path: &Path) -> Result<Layer, SettingsError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| SettingsError::Unreadable { path: path.to_owned(), source })?;
    let table = File::from_str(&text, FileFormat::Toml).collect().map_err(|error| {
        let reason = match error {
            ConfigError::FileParse { cause, .. } => cause.to_string(),
            other => other.to_string(),
        };
        SettingsError::NotToml { path: path.to_owned(), reason }
    })?;
    let origin = format!("file {}", path.display());
    let owned = |(key, value): (String, Value)| (key, Value::new(Some(&origin), value.kind));
    Ok(layer_of(flatten(table).into_iter().map(owned).collect()))
}

/// One source's values under dotted keys.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    pub(super) values: Vec<(String, Value)>,
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        let is_leaf = |value: &Value| !matches!(value.kind, ValueKind::Table(_));
        Ok(self.values.iter().filter(|(_, value)| is_leaf(value)).cloned().collect())
    }
}

/// How a source writes keys, for suggestions that can be copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    Dotted,
    Variable,
}

impl Spelling {
    pub(super) fn of(origin: &str) -> Self {
        if origin.starts_with("env ") { Self::Variable } else { Self::Dotted }
    }

    pub(super) fn write(self, key: &str) -> String {
        match self {
            Self::Dotted => key.to_owned(),
            Self::Variable => format!("{PREFIX}{}", key.to_ascii_uppercase().replace('.', "__")),
        }
    }
}
