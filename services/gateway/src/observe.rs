//! Observation of requests: root spans, stage timings, metrics, SLO checks.

pub(crate) mod metrics;
pub(crate) mod recorder;
pub(crate) mod slo;
pub(crate) mod stages;
pub(crate) mod usage;

pub use metrics::{Exposition, HttpMetrics};
pub use slo::Judge;
pub use stages::StageNotes;
