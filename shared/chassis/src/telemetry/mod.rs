//! Logs on standard error, and traces over OTLP when an endpoint is set.
//!
//! Spans are recorded with explicit times, not with scopes, because one stage of a request may
//! begin in one process and end in another.

pub mod names;

mod context;
mod keep;
mod sampler;
mod trace;
mod value;

pub use opentelemetry::trace::{SpanKind, TraceId};
pub use trace::{OpenSpan, Trace, Tracer};
pub use value::Value;

use std::io::IsTerminal as _;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SpanProcessor as _};
use tracing_subscriber::EnvFilter;

use self::keep::{Counted, Keeper};
use crate::settings::TelemetrySettings;

/// Spans that wait for export before further ones are dropped.
const QUEUE_SPANS_MAX: usize = 16_384;
/// Small, so that spans are freed while they are still in the cache.
const BATCH_SPANS_MAX: usize = 512;
const EXPORT_DELAY: Duration = Duration::from_millis(200);
const EXPORT_TIMEOUT: Duration = Duration::from_secs(3);

/// Why telemetry could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log filter is not one.
    #[error("telemetry.log = {filter:?} is not a log filter: {reason}")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Something else in the process logs already.
    #[error("logging was started before: {0}")]
    Started(String),
    /// The exporter refused its endpoint.
    #[error("telemetry.otlp_endpoint = {endpoint:?}: {reason}")]
    Endpoint {
        /// What was given.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Sends this process's log lines to standard error; call it once, in `main`.
pub fn init_logging(settings: &TelemetrySettings) -> Result<(), TelemetryError> {
    let filter = EnvFilter::builder().parse(&settings.log).map_err(|error| {
        TelemetryError::Filter { filter: settings.log.clone(), reason: error.to_string() }
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let started = if settings.log_json { builder.json().try_init() } else { builder.try_init() };
    started.map_err(|error| TelemetryError::Started(error.to_string()))
}

/// The tracing of one service: its tracer, and the export behind it.
#[derive(Debug)]
pub struct Telemetry {
    tracer: Tracer,
}

impl Telemetry {
    /// Starts exporting the spans of `service`, if an endpoint is set.
    ///
    /// Must be called inside a Tokio runtime, which carries the export. Several services of one
    /// process each have their own.
    pub fn start(
        service: &'static str,
        instance: &str,
        settings: &TelemetrySettings,
    ) -> Result<Self, TelemetryError> {
        let Some(endpoint) = &settings.otlp_endpoint else { return Ok(Self::off()) };
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(EXPORT_TIMEOUT)
            .build()
            .map_err(|error| TelemetryError::Endpoint {
                endpoint: endpoint.clone(),
                reason: error.to_string(),
            })?;
        let batch = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE_SPANS_MAX)
            .with_max_export_batch_size(BATCH_SPANS_MAX)
            .with_scheduled_delay(EXPORT_DELAY)
            .build();
        let (exporter, counts) = Counted::new(exporter);
        let resource = Resource::builder()
            .with_service_name(service)
            .with_attribute(KeyValue::new(names::SERVICE_INSTANCE_ID, instance.to_owned()))
            .build();
        let mut processor = BatchSpanProcessor::builder(exporter).with_batch_config(batch).build();
        processor.set_resource(&resource);
        let keeper = Keeper::new(processor, counts);
        Ok(Self { tracer: Tracer::exporting(keeper, settings.sample_ratio, settings.keep) })
    }

    /// No export: ids are still made and handed on, nothing is recorded.
    pub fn off() -> Self {
        Self { tracer: Tracer::off() }
    }

    /// The tracer to record with; cheap to clone.
    pub fn tracer(&self) -> Tracer {
        self.tracer.clone()
    }

    /// Whether spans are exported.
    pub fn is_exporting(&self) -> bool {
        self.tracer.keeper().is_some()
    }

    /// Exports what is still waiting, for at most `limit`.
    pub async fn shutdown(self, limit: Duration) {
        let Some(keeper) = self.tracer.keeper().cloned() else { return };
        // The SDK's shutdown blocks its thread, and a runtime's own thread must not be blocked.
        let flush = tokio::task::spawn_blocking(move || keeper.shutdown(limit));
        let reason = match tokio::time::timeout(limit, flush).await {
            Ok(Ok(Ok(()))) => return,
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("not finished after {} ms", limit.as_millis()),
        };
        tracing::warn!(reason, "the last spans were not exported");
    }
}
