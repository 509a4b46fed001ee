//! Observation of requests: root spans, stage timings, metrics, SLO checks.

pub(crate) mod baggage;
mod contents;
pub(crate) mod metrics;
pub(crate) mod recorder;
mod slo;
pub(crate) mod stages;
pub(crate) mod usage;

pub use metrics::{Exposition, HttpMetrics};
pub use slo::SloPolicy;
pub use stages::StageNotes;
