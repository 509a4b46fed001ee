//! Logs on standard error, and traces over OTLP when an endpoint is set.
//!
//! Spans are recorded with explicit times, not with scopes, because one stage of a request may
//! begin in one process and end in another.

pub mod names;

mod context;
mod held;
mod histogram;
mod trace;
mod value;

pub use histogram::TracedHistogram;
pub use opentelemetry::trace::{SpanKind, TraceId};
pub use trace::{Caller, OpenSpan, Trace, Tracer};
pub use value::Value;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig, Identity};
use opentelemetry_otlp::{
    ExporterBuildError, SpanExporter, WithExportConfig as _, WithTonicConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SpanProcessor as _};
use tracing_subscriber::EnvFilter;

use self::held::{Counted, HeldSpans};
use crate::settings::TelemetrySettings;

/// The spans that may wait for export; further ones are dropped.
const QUEUE_SPANS_MAX: usize = 16_384;
/// Small, so that spans are freed while they are still in the cache.
const BATCH_SPANS_MAX: usize = 512;
const EXPORT_DELAY: Duration = Duration::from_millis(200);
const EXPORT_TIMEOUT: Duration = Duration::from_secs(3);

/// The reason for which logging could not be started.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum TelemetryError {
    /// The log filter is not one.
    #[error("telemetry.log = {filter:?} is not a log filter: {reason}")]
    Filter { filter: String, reason: String },
    /// Something else in the process logs already.
    #[error("logging was started before: {0}")]
    Started(String),
}

/// The reason for which spans cannot be exported.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum ExportError {
    /// A certificate or a key cannot be read.
    #[error("cannot read {}: {source}; expected a PEM file", path.display())]
    Certificate { path: PathBuf, source: std::io::Error },
    /// Half of a client's identity is missing.
    #[error("{given} is set and {missing} is not; expected both, or neither")]
    Identity { given: &'static str, missing: &'static str },
    /// The exporter refused its endpoint.
    #[error("telemetry.otlp_endpoint = {endpoint:?}: {reason}")]
    Endpoint { endpoint: String, reason: ExporterBuildError },
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
    ) -> Result<Self, ExportError> {
        let Some(endpoint) = &settings.otlp_endpoint else { return Ok(Self::off()) };
        let exporter = exporter(endpoint, settings)?;
        Ok(Self::exporting(exporter, service, instance, settings))
    }

    /// The same for a service: an endpoint that cannot be used costs the traces, not the service.
    pub fn start_or_warn(
        service: &'static str,
        instance: &str,
        settings: &TelemetrySettings,
    ) -> Self {
        Self::start(service, instance, settings).unwrap_or_else(|error| {
            let error = crate::error::chain(&error);
            let endpoint = settings.otlp_endpoint.as_deref();
            tracing::warn!(endpoint, error, "failed to start the export of traces");
            Self::off()
        })
    }

    fn exporting(
        exporter: SpanExporter,
        service: &'static str,
        instance: &str,
        settings: &TelemetrySettings,
    ) -> Self {
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
        let held = HeldSpans::new(processor, counts);
        Self { tracer: Tracer::exporting(held, settings.sample_ratio, settings.keep) }
    }

    /// Returns telemetry without export: ids are made and passed on, nothing is recorded.
    pub fn off() -> Self {
        Self { tracer: Tracer::off() }
    }

    /// Returns the tracer to record with; cheap to clone.
    pub fn tracer(&self) -> Tracer {
        self.tracer.clone()
    }

    /// Returns whether spans are exported.
    pub fn is_exporting(&self) -> bool {
        self.tracer.held_spans().is_some()
    }

    /// Exports the spans that still wait, for at most `limit`.
    pub async fn shutdown(self, limit: Duration) {
        let Some(held) = self.tracer.held_spans().cloned() else { return };
        // The SDK's shutdown blocks its thread, and a runtime's own thread must not be blocked.
        let flush = tokio::task::spawn_blocking(move || held.shutdown(limit));
        let reason = match tokio::time::timeout(limit, flush).await {
            Ok(Ok(Ok(()))) => return,
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("not finished after {} ms", limit.as_millis()),
        };
        tracing::warn!(reason, "failed to export the last spans");
    }
}

fn exporter(endpoint: &str, settings: &TelemetrySettings) -> Result<SpanExporter, ExportError> {
    let mut builder =
        SpanExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(EXPORT_TIMEOUT);
    if endpoint.starts_with("https://") {
        builder = builder.with_tls_config(tls(settings)?);
    }
    builder
        .build()
        .map_err(|reason| ExportError::Endpoint { endpoint: endpoint.to_owned(), reason })
}

fn tls(settings: &TelemetrySettings) -> Result<ClientTlsConfig, ExportError> {
    let read = |path: &PathBuf| {
        let path = path.clone();
        std::fs::read(&path).map_err(|source| ExportError::Certificate { path, source })
    };
    let config = ClientTlsConfig::new();
    let config = match &settings.otlp_certificate {
        Some(path) => config.ca_certificate(Certificate::from_pem(read(path)?)),
        None => config.with_enabled_roots(),
    };
    const CERTIFICATE: &str = "telemetry.otlp_client_certificate";
    const KEY: &str = "telemetry.otlp_client_key";
    match (&settings.otlp_client_certificate, &settings.otlp_client_key) {
        (None, None) => Ok(config),
        (Some(certificate), Some(key)) => {
            Ok(config.identity(Identity::from_pem(read(certificate)?, read(key)?)))
        }
        (Some(_), None) => Err(ExportError::Identity { given: CERTIFICATE, missing: KEY }),
        (None, Some(_)) => Err(ExportError::Identity { given: KEY, missing: CERTIFICATE }),
    }
}
