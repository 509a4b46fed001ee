//! A worker service without its process: wiring, life cycle, and what its parts share.

mod boot;
mod crew;
mod fetch;
mod metrics;
mod presence;
mod registry;
mod relay;
mod serve;
mod spans;
mod stages;
mod store;
mod times;

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context as _;
use bus::{Blocks, Bus, BusOptions, Call, Incoming, TAP_BYTES_MAX, Tap};
use chassis::http::{Readiness, health_router};
use chassis::telemetry::{Telemetry, Tracer};
use chassis::{Settings, StopToken, Tasks};
use protocol::subject::WorkerRequest;
use protocol::{BLOCK_TOKENS, ModelFingerprint, RequestKey, Role, WorkerId};

use crate::handle::EngineHandle;
use crew::Crew;
use metrics::Metrics;
use registry::Registry;

/// Handlers of one kind that may run at the same time.
const CALLS_MAX: usize = 256;

/// What all parts of a worker share.
pub(crate) struct Worker {
    id: WorkerId,
    role: Role,
    bus: Bus,
    blocks: Blocks,
    tap: Tap,
    engine: EngineHandle,
    fingerprint: ModelFingerprint,
    block_bytes: usize,
    tracer: Tracer,
    metrics: Metrics,
    crew: Crew,
    registry: Mutex<Registry>,
    draining: AtomicBool,
}

impl Worker {
    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a job's key means here. A call of its own, so that no `match` on it holds the registry.
    fn standing(&self, key: &RequestKey) -> registry::Standing {
        self.registry().standing(key)
    }

    /// Whether a prompt's blocks are taken as they are put: all of them together are not many.
    fn listens_for(&self, tokens: usize) -> bool {
        tokens.div_ceil(BLOCK_TOKENS) * self.block_bytes <= TAP_BYTES_MAX
    }

    fn draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// The id of a request's trace, for log lines; empty for one that is not here any more.
    fn trace_id(&self, key: &RequestKey) -> String {
        let registry = self.registry();
        registry.get(key).map(|entry| entry.trace.trace_id().to_string()).unwrap_or_default()
    }

    /// The context that messages about a request carry.
    fn context(&self, key: &RequestKey) -> bus::Context {
        let registry = self.registry();
        registry
            .get(key)
            .map(|entry| bus::Context::new(entry.trace.traceparent()))
            .unwrap_or_default()
    }
}

/// Every instrument of a worker, for those who describe them.
pub fn instruments(role: Role) -> chassis::metrics::Registry {
    let mut registry = chassis::metrics::registry(role.as_str());
    Metrics::new(&mut registry);
    let trace = Tracer::off().timing_stages(&mut registry).continue_from(None);
    trace.stage(chassis::telemetry::names::stage::KV_PUT, UNIX_EPOCH..UNIX_EPOCH, []);
    registry
}

/// Serves until `stop` resolves, then finishes what runs, within the drain time.
///
/// # Errors
/// When the model cannot be loaded, or a part of the worker ends by itself.
pub async fn run(
    settings: Settings,
    role: Role,
    stop: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let instance = chassis::identity::instance_id(&settings.worker.id);
    let telemetry = Telemetry::start(role.as_str(), &instance, &settings.telemetry)?;
    let stopped = StopToken::new();
    let told = stopped.clone();
    let tell = async {
        stop.await;
        told.cancel();
        std::future::pending::<Infallible>().await
    };
    let served = tokio::select! {
        served = serve(&settings, role, &instance, telemetry.tracer(), stopped) => served,
        never = tell => match never {},
    };
    telemetry.shutdown(settings.drain_timeout()).await;
    served
}

/// The worker's name on the bus: its own, or made from its instance's.
fn name(settings: &Settings, role: Role, instance: &str) -> anyhow::Result<WorkerId> {
    let name = match settings.worker.id.is_empty() {
        true => format!("{}-{instance}", role.as_str()),
        false => instance.to_owned(),
    };
    name.parse().context("name the worker")
}

async fn serve(
    settings: &Settings,
    role: Role,
    instance: &str,
    tracer: Tracer,
    stopped: StopToken,
) -> anyhow::Result<()> {
    let id = name(settings, role, instance)?;
    let mut registry = chassis::metrics::registry(role.as_str());
    let metrics = Metrics::new(&mut registry);
    let tracer = tracer.timing_stages(&mut registry);
    let readiness = Readiness::waiting_for(["model", "nats", "kvstore"]);
    let mut tasks = Tasks::new();
    let health = boot::health(
        settings,
        &mut tasks,
        health_router(readiness.clone(), chassis::metrics::Metrics::new(registry)),
    )
    .await?;

    let options = BusOptions {
        url: settings.nats.url.clone(),
        name: id.to_string(),
        connect_timeout: Duration::from_millis(settings.nats.connect_timeout_ms),
    };
    let loading = boot::load(settings, role);
    let connecting = Bus::connect_with_retry(options, stopped.clone().cancelled_owned());
    let (engine, bus) = tokio::select! {
        both = async { tokio::join!(loading, connecting) } => both,
        () = stopped.cancelled() => return Ok(()),
    };
    let engine = engine?;
    readiness.met("model");
    let Some(bus) = bus else { return Ok(()) };
    readiness.met("nats");

    let info = engine.info;
    let blocks = bus.blocks(&info.fingerprint);
    let worker = Arc::new(Worker {
        tap: blocks.tap(&id).await?,
        blocks,
        fingerprint: info.fingerprint,
        block_bytes: info.block_bytes,
        engine: engine.handle,
        id,
        role,
        bus,
        tracer,
        metrics,
        crew: Crew::default(),
        registry: Mutex::default(),
        draining: AtomicBool::new(false),
    });
    tasks.spawn("relay", until(tasks.stop(), relay::run(worker.clone(), engine.steps)));
    tasks.spawn("store", until(tasks.stop(), store::run(worker.clone(), engine.blocks)));
    boot::listen(&worker, &mut tasks).await?;
    boot::hear_verdicts(&worker, &mut tasks).await?;
    let stop = tasks.stop();
    let state = presence::State { info, health, readiness };
    tasks.spawn("presence", presence::run(worker.clone(), state, stop));
    tracing::info!(worker = %worker.id, role = role.as_str(), "worker runs");

    let drained = presence::drain(worker.clone(), stopped, settings.drain_timeout());
    let served = tasks.run_until(drained, settings.drain_timeout()).await;
    worker.crew.abort();
    drop(worker);
    boot::join(engine.thread).await;
    served
}

/// Runs a part until it ends by itself, which is a failure, or the service stops.
async fn until(stop: StopToken, part: impl Future<Output = ()>) -> anyhow::Result<()> {
    tokio::select! {
        () = part => anyhow::bail!("ended by itself: the engine is gone"),
        () = stop.cancelled() => Ok(()),
    }
}

/// Handles one kind of message until the service stops, each call in a task of its own.
async fn answer<M, F>(
    worker: Arc<Worker>,
    mut incoming: Incoming<M>,
    stop: StopToken,
    handle: fn(Arc<Worker>, Call<M>) -> F,
) -> anyhow::Result<()>
where
    M: WorkerRequest,
    F: Future<Output = ()> + Send + 'static,
{
    let mut calls = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            call = incoming.next(), if calls.len() < CALLS_MAX => {
                let call = call.context("the subscription ended")?;
                calls.spawn(handle(worker.clone(), call));
            }
            Some(_) = calls.join_next() => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
}
