//! Metrics: the registry behind `/metrics`, and the usual buckets.

use std::fmt;
use std::sync::Arc;

pub use prometheus_client::registry::Registry;

use prometheus_client::metrics::info::Info;

/// The content type under which Prometheus reads exemplars.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Bounds in seconds of `vllm:time_to_first_token_seconds`: the usual ones, and finer ones where the
/// first tokens of small models and stored prompts lie.
pub const TTFT_SECONDS: [f64; 29] = [
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1,
    0.15, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
/// Bounds in seconds of `vllm:inter_token_latency_seconds`, with finer ones below 10 ms, where
/// the tokens of small models lie.
pub const ITL_SECONDS: [f64; 26] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15,
    0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];
/// Bounds in seconds of `vllm:e2e_request_latency_seconds` and of the times of its parts.
pub const REQUEST_SECONDS: [f64; 30] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5,
    5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0,
];
/// Bounds of prediction errors.
pub const ERROR_RATIO: [f64; 11] = [0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0];
/// Bounds of token counts: `vllm:request_prompt_tokens` and the like.
pub const TOKENS: [f64; 17] = [
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0,
    20_000.0, 50_000.0, 100_000.0, 200_000.0,
];
/// Bounds in seconds of steps, transfers and waits inside the system.
pub const STEP_SECONDS: [f64; 15] =
    [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];

/// Bounds in seconds of the stages of a request, of small models and of large ones.
pub const STAGE_SECONDS: [f64; 18] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0, 120.0,
];

/// A complete registry, as `/metrics` serves it; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
}

impl Metrics {
    /// Completes a registry.
    pub fn new(registry: Registry) -> Self {
        Self { registry: Arc::new(registry) }
    }

    /// Returns the OpenMetrics text, which ends with `# EOF`.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// Returns a registry with the `tandem_build` info of `service`, for its metrics to be added to.
pub fn registry(service: &'static str) -> Registry {
    let mut registry = Registry::default();
    let labels = vec![("service", service), ("version", env!("CARGO_PKG_VERSION"))];
    registry.register("tandem_build", "Name and version of the running service", Info::new(labels));
    registry
}
