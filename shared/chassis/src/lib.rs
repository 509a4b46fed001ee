//! The frame of every service: settings, telemetry, owned tasks, shutdown, health endpoints.
//!
//! **Invariants**: nothing else reads the environment; every task has an owner; nothing here knows
//! what a service does.

pub mod settings;
pub mod telemetry;

pub mod clock;
pub mod error;
pub mod http;
pub mod identity;
pub mod metrics;
pub mod service;
pub mod tasks;

pub use settings::{Effective, Settings, SettingsArgs};
pub use tasks::{StopToken, Tasks};
pub use telemetry::{OpenSpan, Telemetry, Trace, Tracer};
