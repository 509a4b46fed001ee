//! Configuration: defaults in code, then a TOML file, then the environment, then flags.
//!
//! **Invariant**: this is the only place of the program that reads its environment.

mod args;
mod effective;
mod error;
mod keys;
mod schema;
mod sources;

pub use args::SettingsArgs;
pub use effective::{Effective, Entry};
pub use error::SettingsError;
pub use schema::{
    GatewaySettings, HealthSettings, KvstoreSettings, LinksSettings, ModelSettings, NatsSettings,
    Settings, SimulatedSettings, SloSettings, TelemetrySettings, WorkerSettings,
};
pub use sources::{Flag, Sources};

use config::{Config, Source as _};

use keys::{KnownKeys, flatten};
use sources::Layer;

/// Puts the sources together; later ones win, and every value keeps where it came from.
pub fn load(sources: &Sources) -> Result<Effective, SettingsError> {
    let known = KnownKeys::new();
    let mut builder = Config::builder().add_source(defaults());
    for layer in sources.layers()? {
        known.check(&layer)?;
        builder = builder.add_source(layer);
    }
    let merged = builder.build().map_err(SettingsError::from_config)?;
    let values = flatten(merged.collect().map_err(SettingsError::from_config)?);
    let settings: Settings = merged.try_deserialize().map_err(SettingsError::from_config)?;
    let effective = Effective::new(settings, values);
    match effective.settings.out_of_range().first() {
        None => Ok(effective),
        Some((key, expected)) => Err(effective.reject(key, expected)),
    }
}

fn defaults() -> Config {
    Config::try_from(&Settings::default()).expect("the defaults are plain data")
}

fn layer_of(values: Vec<(String, config::Value)>) -> Layer {
    Layer { values }
}
