//! The sources of settings, each as a layer of values with their origin.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use config::{ConfigError, File, FileFormat, Map, Source, Value, ValueKind};

use super::error::SettingsError;
use super::keys::flatten;
use super::kubernetes::is_service_variable;
use super::schema::is_http;

const PREFIX: &str = "TANDEM_";
/// The file that is read when none is named and it exists.
const DEFAULT_FILE: &str = "tandem.toml";
/// Variables with our prefix that are not settings of a service.
const NOT_SETTINGS: [&str; 5] =
    ["TANDEM_CONFIG", "TANDEM_CACHE", "TANDEM_REQUIRE", "TANDEM_TESTS", "TANDEM_TRACES"];
/// Variables of OpenTelemetry that stand for settings, weaker than our own; the later one wins.
const OPENTELEMETRY: [(&str, &str); 8] = [
    ("OTEL_EXPORTER_OTLP_ENDPOINT", ENDPOINT_KEY),
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", ENDPOINT_KEY),
    ("OTEL_EXPORTER_OTLP_CERTIFICATE", "telemetry.otlp_certificate"),
    ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "telemetry.otlp_certificate"),
    ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "telemetry.otlp_client_certificate"),
    ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", "telemetry.otlp_client_certificate"),
    ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "telemetry.otlp_client_key"),
    ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "telemetry.otlp_client_key"),
];
/// The variables that name OpenTelemetry's protocol, of which we speak one; the first one wins.
const OPENTELEMETRY_PROTOCOL: [&str; 2] =
    ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
const ENDPOINT_KEY: &str = "telemetry.otlp_endpoint";

/// Variables of the environment that were not used, for the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notices {
    /// Sentences about values that cannot be used.
    pub warnings: Vec<String>,
    /// Names of variables that Kubernetes set for a service and that are no settings.
    pub kubernetes: Vec<String>,
}

impl Notices {
    /// Writes them to the log.
    pub fn log(&self) {
        for warning in &self.warnings {
            tracing::warn!("{warning}");
        }
        if !self.kubernetes.is_empty() {
            let variables = self.kubernetes.join(", ");
            tracing::info!(variables, "ignored the service variables of Kubernetes");
        }
    }
}

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

/// The sources of the settings, besides the defaults.
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
    /// Returns the environment of this process, `tandem.toml` in its directory, and `flags`.
    pub fn of_process(file: Option<PathBuf>, flags: Vec<Flag>) -> Self {
        let environment: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let named = environment.get("TANDEM_CONFIG").filter(|value| !value.is_empty());
        let file = file.or_else(|| named.map(PathBuf::from));
        Self { file, default_file: Some(PathBuf::from(DEFAULT_FILE)), environment, flags }
    }

    /// Returns the layers, weakest first, and what was left out of them.
    pub(super) fn layers(&self) -> Result<(Vec<Layer>, Notices), SettingsError> {
        let mut layers = Vec::new();
        let mut notices = Notices::default();
        let default_file = self.default_file.as_ref().filter(|path| path.exists());
        if let Some(path) = self.file.as_ref().or(default_file) {
            layers.push(file_layer(path)?);
        }
        layers.push(self.opentelemetry_layer(&mut notices));
        layers.push(self.environment_layer(&mut notices));
        layers.push(self.flag_layer());
        Ok((layers, notices))
    }

    /// Returns the value of a variable; an empty one means "not set", as compose files write
    /// `TANDEM_X=${X:-}`.
    fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Returns the settings that OpenTelemetry's variables stand for. They are often set for all
    /// programs of a machine, so that one that we cannot use costs the traces, not the start.
    fn opentelemetry_layer(&self, notices: &mut Notices) -> Layer {
        let mut values = Vec::new();
        let protocol = OPENTELEMETRY_PROTOCOL
            .iter()
            .find_map(|name| Some((*name, self.variable(name)?)))
            .filter(|(_, protocol)| *protocol != "grpc");
        let endpoint = OPENTELEMETRY.iter().rev().find_map(|(name, key)| {
            let value = self.variable(name).filter(|_| *key == ENDPOINT_KEY)?;
            Some((*name, value))
        });
        for (name, key) in OPENTELEMETRY {
            let Some(value) = self.variable(name) else { continue };
            let is_usable = key != ENDPOINT_KEY || (protocol.is_none() && is_http(value));
            if is_usable {
                values.push((key.to_owned(), env_value(name, value)));
            }
        }
        let is_ours = self.variable(&Spelling::Variable.write(ENDPOINT_KEY)).is_some()
            || self.flags.iter().any(|flag| flag.key == ENDPOINT_KEY);
        if let Some((name, value)) = endpoint.filter(|_| !is_ours) {
            let why = match protocol {
                Some((name, protocol)) => Some(format!(
                    "{name} = {protocol}: expected grpc, the only protocol that Tandem speaks; set \
                     it to grpc and the endpoint to the collector's gRPC port, usually 4317"
                )),
                None if !is_http(value) => Some(format!(
                    "{name} = {value}: expected http://host:port or https://host:port"
                )),
                None => None,
            };
            notices
                .warnings
                .extend(why.map(|why| format!("{why}. {name} is ignored, and no traces go there")));
        }
        Layer { values }
    }

    fn environment_layer(&self, notices: &mut Notices) -> Layer {
        let mut values = Vec::new();
        for name in self.environment.keys().filter(|name| name.starts_with(PREFIX)) {
            let Some(value) = self.variable(name) else { continue };
            if NOT_SETTINGS.contains(&name.as_str()) {
                continue;
            }
            if is_service_variable(name, value) {
                notices.kubernetes.push(name.clone());
                continue;
            }
            let key = name[PREFIX.len()..].to_ascii_lowercase().replace("__", ".");
            values.push((key, env_value(name, value)));
        }
        Layer { values }
    }

    fn flag_layer(&self) -> Layer {
        let values = self.flags.iter().map(|flag| {
            let origin = format!("flag {}", flag.flag);
            (flag.key.clone(), Value::new(Some(&origin), flag.value.as_str()))
        });
        Layer { values: values.collect() }
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
    let values = flatten(table).into_iter();
    let values = values.map(|(key, value)| (key, Value::new(Some(&origin), value.kind)));
    Ok(Layer { values: values.collect() })
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
        let leaves =
            self.values.iter().filter(|(_, value)| !matches!(value.kind, ValueKind::Table(_)));
        Ok(leaves.cloned().collect())
    }
}

/// The form in which a source writes keys, for suggestions that can be copied.
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
