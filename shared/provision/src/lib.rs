//! Programs and models from outside, fetched to this machine, and a private NATS server.
//!
//! **Invariant**: nothing is used whose digest is not the one written in [`pins`], or for models of
//! one's own choice the one that their [`hub`] names; and no process started here outlives the one
//! that started it.

pub mod hub;
pub mod pins;

mod cache;
mod digest;
mod fetch;
mod nats;
mod tether;

pub use cache::Cache;
pub use fetch::ProvisionError;
pub use nats::{NatsError, NatsOptions, NatsServer};
pub use tether::{Tethered, tether};

use std::path::PathBuf;

/// The pinned nats-server, fetched into the default cache when it is not there yet.
///
/// `progress` receives one line for people before each step that may take long.
pub fn nats_server(progress: &dyn Fn(&str)) -> Result<PathBuf, ProvisionError> {
    let pin = pins::nats_server().ok_or_else(|| ProvisionError::Platform {
        what: "nats-server",
        platform: format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH),
        instead: "install nats-server 2.12 or newer and use --nats URL",
    })?;
    Cache::locate()?.obtain(&pin, progress)
}

/// The pinned SmolLM2-135M-Instruct GGUF, fetched into the default cache when it is not there yet.
pub fn smollm2(progress: &dyn Fn(&str)) -> Result<PathBuf, ProvisionError> {
    Cache::locate()?.obtain(&pins::SMOLLM2, progress)
}
