//! Observation of a run in progress: display, metrics, and annotations of its timeline.

pub mod annotate;
pub mod exposition;
pub mod progress;
pub mod server;
