//! The kvstore service: owns the streams of KV blocks, knows what is stored, leases and evicts.
//!
//! Reading order: [`run`] wires the process, `store_loop` is its one loop, `stream_index` is the
//! index of one model's stream, `deletion` deletes evicted blocks. Block bodies never come here.

mod deletion;
mod metrics;
mod store_loop;
mod stream_index;
mod traces;

use std::time::Duration;

use anyhow::Context as _;
use chassis::http::{self, Readiness};
use chassis::metrics::{Metrics, Registry};
use chassis::{Settings, Tasks, Telemetry, Tracer};
use tokio::net::TcpListener;

use crate::metrics::StoreMetrics;
use crate::store_loop::Service;

/// Longest wait for the export of the last spans.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);
const NATS: &str = "nats";
const INDEX: &str = "index";

/// Returns every instrument of the kvstore, for METRICS.md.
pub fn instruments() -> Registry {
    let mut registry = chassis::metrics::registry("kvstore");
    StoreMetrics::register(&mut registry);
    Tracer::off().timing_stages(&mut registry);
    registry
}

/// Serves until `stop` resolves.
///
/// # Errors
/// Fails if the health endpoints cannot be served, or a part of the service ends by itself.
pub async fn run(settings: Settings, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let address = &settings.health.listen;
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listen for health requests on {address}"))?;
    serve(settings, listener, stop).await
}

/// Serves until `stop` resolves, with health endpoints on `listener`.
///
/// # Errors
/// Fails if a part of the service ends by itself.
pub async fn serve(
    settings: Settings,
    listener: TcpListener,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let instance = chassis::identity::instance_id("");
    let telemetry = Telemetry::start_or_warn("kvstore", &instance, &settings.telemetry);
    let readiness = Readiness::waiting_for([NATS, INDEX]);
    let mut registry = chassis::metrics::registry("kvstore");
    let metrics = StoreMetrics::register(&mut registry);
    let tracer = telemetry.tracer().timing_stages(&mut registry);
    let health_address = listener.local_addr().context("read the health address")?;
    tracing::info!(%health_address, nats = %settings.nats.url, "starting kvstore");

    let drain_timeout = settings.drain_timeout();
    let mut tasks = Tasks::new();
    let router = http::health_router(readiness.clone(), Metrics::new(registry));
    let health = http::serve(listener, router, tasks.stop());
    tasks.spawn("health", async move { Ok(health.await?) });
    let service = Service { settings, instance, readiness, metrics, tracer, stop: tasks.stop() };
    tasks.spawn("store loop", store_loop::run(service));
    let served = tasks.run_until(stop, drain_timeout).await;
    telemetry.shutdown(FLUSH_LIMIT).await;
    served
}
