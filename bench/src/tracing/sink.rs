//! An OTLP receiver that counts the bytes of spans and discards them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use bytes::Bytes;
use chassis::StopToken;
use http_body_util::{BodyExt as _, Full};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const BATCH_BYTES_MAX: usize = 64 << 20;
/// A gRPC frame: not compressed, four bytes of length, an empty message.
const EMPTY_MESSAGE: [u8; 5] = [0; 5];

/// A receiver that runs until it is dropped.
pub(super) struct Sink {
    address: SocketAddr,
    bytes: Arc<AtomicU64>,
    // Dropping the set aborts the server.
    _server: JoinSet<()>,
}

impl Sink {
    /// Starts a receiver on a free port.
    pub(super) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("receive spans")?;
        let address = listener.local_addr().context("receive spans")?;
        let bytes = Arc::new(AtomicU64::new(0));
        let router = Router::new().route(EXPORT, post(export)).with_state(bytes.clone());
        let mut server = JoinSet::new();
        server.spawn(async move {
            let served = chassis::http::serve(listener, router, StopToken::new()).await;
            if let Err(error) = served {
                crate::console::note(&format!("failed to serve the receiver of spans: {error}"));
            }
        });
        Ok(Self { address, bytes, _server: server })
    }

    /// Returns the value for `telemetry.otlp_endpoint`.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the bytes of spans so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

async fn export(State(bytes): State<Arc<AtomicU64>>, request: Request) -> Response {
    let Ok(body) = to_bytes(request.into_body(), BATCH_BYTES_MAX).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let message = Full::new(Bytes::from_static(&EMPTY_MESSAGE));
    let body = message.with_trailers(async { Some(Ok::<_, Infallible>(trailers)) });
    ([(header::CONTENT_TYPE, "application/grpc")], Body::new(body)).into_response()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use chassis::Telemetry;
    use chassis::settings::TelemetrySettings;
    use chassis::telemetry::{Caller, SpanKind};

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn an_exporter_is_content() {
        let sink = Sink::start().await.unwrap();
        let settings =
            TelemetrySettings { otlp_endpoint: Some(sink.url()), ..TelemetrySettings::default() };
        let telemetry = Telemetry::start("test", "t", &settings).unwrap();
        let mut registry = chassis::metrics::registry("test");
        let tracer = telemetry.tracer().timing_stages(&mut registry);
        let metrics = chassis::metrics::Metrics::new(registry);
        let now = SystemTime::now();
        tracer.root_span("request", SpanKind::Server, Caller::default(), now).end_at(now);
        telemetry.shutdown(Duration::from_secs(10)).await;
        let text = metrics.encode().unwrap();
        assert!(text.contains("tandem_trace_spans_exported_total 1"), "{text}");
        assert!(text.contains("tandem_trace_spans_export_failed_total 0"), "{text}");
        assert!(sink.bytes() > 0);
    }
}
