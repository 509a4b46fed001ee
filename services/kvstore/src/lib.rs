//! The kvstore service: owns the streams of KV blocks, knows what is stored, leases and evicts.
//!
//! Reading order: [`run`] wires the process, `keeper` is its one loop, `shelf` is the index of one
//! model, `sweeper` deletes what was evicted. Block bodies never come here.

mod keeper;
mod metrics;
mod shelf;
mod sweeper;
mod traces;

use std::time::Duration;

use anyhow::Context as _;
use chassis::http::{self, Readiness};
use chassis::metrics::{Metrics, Registry};
use chassis::{Settings, Tasks, Telemetry, Tracer};
use tokio::net::TcpListener;

use crate::keeper::Keeper;
use crate::metrics::StoreMetrics;

/// Longest wait for the last spans.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);
const NATS: &str = "nats";
const INDEX: &str = "index";

/// Every instrument of the kvstore, for those who describe them.
pub fn instruments() -> Registry {
    let mut registry = chassis::metrics::registry("kvstore");
    StoreMetrics::register(&mut registry);
    Tracer::off().timing_stages(&mut registry);
    registry
}

/// Serves until `stop` resolves.
///
/// # Errors
/// When the health endpoints cannot be served, or a part of the service ends by itself.
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
/// When a part of the service ends by itself.
pub async fn serve(
    settings: Settings,
    listener: TcpListener,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let instance = chassis::identity::instance_id("");
    let telemetry = Telemetry::start("kvstore", &instance, &settings.telemetry)?;
    let readiness = Readiness::waiting_for([NATS, INDEX]);
    let mut registry = chassis::metrics::registry("kvstore");
    let metrics = StoreMetrics::register(&mut registry);
    let tracer = telemetry.tracer().timing_stages(&mut registry);
    let health_address = listener.local_addr().context("read the health address")?;
    tracing::info!(%health_address, nats = %settings.nats.url, "kvstore starts");

    let drain_timeout = settings.drain_timeout();
    let mut tasks = Tasks::new();
    let router = http::health_router(readiness.clone(), Metrics::new(registry));
    let health = http::serve(listener, router, tasks.stop());
    tasks.spawn("health", async move { Ok(health.await?) });
    let keeper = Keeper { settings, instance, readiness, metrics, tracer, stop: tasks.stop() };
    tasks.spawn("keeper", keeper.run());
    let served = tasks.run_until(stop, drain_timeout).await;
    telemetry.shutdown(FLUSH_LIMIT).await;
    served
}
