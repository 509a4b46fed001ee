//! Configuration: defaults in code, then a TOML file, then the environment, then flags.
//!
//! **Invariant**: this is the only place of the program that reads its environment.

mod args;
mod describe;
mod effective;
mod error;
mod key;
mod keys;
mod kubernetes;
mod schema;
mod sources;
mod values;

pub use args::SettingsArgs;
pub use describe::describe;
pub use effective::{Effective, Entry};
pub use error::SettingsError;
pub use key::Key;
pub use schema::{
    GatewaySettings, HealthSettings, KvstoreSettings, LinksSettings, ModelSettings, NatsSettings,
    Settings, SimulatedSettings, SloSettings, TelemetrySettings, WorkerSettings,
};
pub use sources::{Flag, Notices, Sources};
pub use values::{Activations, Device, Disaggregate, Engine, GenerationConfig, Isa};

use config::{Config, Source as _};

use keys::{KnownKeys, flatten};

/// Merges the sources; later ones win, and every value keeps its origin.
pub fn load(sources: &Sources) -> Result<Effective, SettingsError> {
    let known = KnownKeys::new();
    let defaults = Config::try_from(&Settings::default()).expect("the defaults are plain data");
    let mut builder = Config::builder().add_source(defaults);
    let (layers, notices) = sources.layers()?;
    for layer in layers {
        known.check(&layer)?;
        builder = builder.add_source(layer);
    }
    let merged = builder.build().map_err(SettingsError::from_config)?;
    let values = flatten(merged.collect().map_err(SettingsError::from_config)?);
    let settings: Settings = merged.try_deserialize().map_err(SettingsError::from_config)?;
    let out_of_range = settings.keys().into_iter().find(|key| !key.is_in_range);
    let effective = Effective::new(settings, values, notices);
    match out_of_range {
        None => Ok(effective),
        Some(key) => Err(effective.reject(&key.key, &key.expected_with_unit())),
    }
}
