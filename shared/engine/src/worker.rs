//! A worker service without its process: wiring, life cycle, and the state that its parts share.

mod boot;
mod fetch;
mod metrics;
mod presence;
mod registry;
mod relay;
mod serve;
mod spans;
mod stages;
mod store;
mod task_set;
mod times;

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context as _;
use bus::{BlockSubscription, Blocks, Bus, BusOptions, Call, Incoming, LISTEN_BYTES_MAX};
use chassis::http::{Readiness, health_router};
use chassis::telemetry::{Telemetry, Tracer};
use chassis::{Settings, StopToken, Tasks};
use protocol::subject::WorkerRequest;
use protocol::{BLOCK_TOKENS, ModelFingerprint, RequestKey, Role, WorkerId};

use crate::handle::EngineHandle;
use metrics::Metrics;
use registry::Registry;
use task_set::TaskSet;

/// Handlers of one kind that may run at the same time.
const CALLS_MAX: usize = 256;

/// The state that all parts of a worker share.
pub(crate) struct Worker {
    id: WorkerId,
    role: Role,
    bus: Bus,
    blocks: Blocks,
    subscription: BlockSubscription,
    engine: EngineHandle,
    fingerprint: ModelFingerprint,
    block_bytes: usize,
    tracer: Tracer,
    metrics: Metrics,
    task_set: TaskSet,
    registry: Mutex<Registry>,
    draining: AtomicBool,
}

impl Worker {
    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the meaning of a job's key. A call of its own, so that no `match` on it holds the
    /// registry.
    fn key_status(&self, key: &RequestKey) -> registry::KeyStatus {
        self.registry().key_status(key)
    }

    /// Returns true if this worker listens for the blocks of a prompt: all of them together fit.
    fn listens_for(&self, tokens: usize) -> bool {
        tokens.div_ceil(BLOCK_TOKENS) * self.block_bytes <= LISTEN_BYTES_MAX
    }

    fn draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Returns the id of a request's trace, for log lines; empty for an unknown request.
    fn trace_id(&self, key: &RequestKey) -> String {
        let registry = self.registry();
        registry.get(key).map(|entry| entry.trace.trace_id().to_string()).unwrap_or_default()
    }

    /// Returns the context of messages about a request.
    fn context(&self, key: &RequestKey) -> bus::Context {
        let registry = self.registry();
        registry
            .get(key)
            .map(|entry| bus::Context::new(entry.trace.traceparent()))
            .unwrap_or_default()
    }
}

/// Returns every instrument of a worker, for METRICS.md.
pub fn instruments(role: Role) -> chassis::metrics::Registry {
    let mut registry = chassis::metrics::registry(role.as_str());
    Metrics::new(&mut registry);
    let trace = Tracer::off().timing_stages(&mut registry).continue_from(None);
    trace.stage(chassis::telemetry::names::stage::KV_PUT, UNIX_EPOCH..UNIX_EPOCH, []);
    registry
}

/// Serves until `stop` resolves, then finishes the running requests within the drain time.
///
/// # Errors
/// Fails if the model cannot be loaded, or a part of the worker ends by itself.
pub async fn run(
    settings: Settings,
    role: Role,
    stop: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let instance = chassis::identity::instance_id(&settings.worker.id);
    let telemetry = Telemetry::start_or_warn(role.as_str(), &instance, &settings.telemetry);
    let stopped = StopToken::new();
    let stopping = stopped.clone();
    let forward_stop = async {
        stop.await;
        stopping.cancel();
        std::future::pending::<Infallible>().await
    };
    let served = tokio::select! {
        served = serve(&settings, role, &instance, telemetry.tracer(), stopped) => served,
        never = forward_stop => match never {},
    };
    telemetry.shutdown(settings.drain_timeout()).await;
    served
}

/// Returns the worker's name on the bus: the configured one, or role and instance.
fn name(settings: &Settings, role: Role, instance: &str) -> anyhow::Result<WorkerId> {
    let name = if settings.worker.id.is_empty() {
        format!("{}-{instance}", role.as_str())
    } else {
        instance.to_owned()
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
        subscription: blocks.subscribe(&id).await?,
        blocks,
        fingerprint: info.fingerprint,
        block_bytes: info.block_bytes,
        engine: engine.handle,
        id,
        role,
        bus,
        tracer,
        metrics,
        task_set: TaskSet::default(),
        registry: Mutex::default(),
        draining: AtomicBool::new(false),
    });
    tasks.spawn("relay", until(tasks.stop(), relay::run(worker.clone(), engine.steps)));
    tasks.spawn("store", until(tasks.stop(), store::run(worker.clone(), engine.blocks)));
    boot::listen(&worker, &mut tasks).await?;
    boot::follow_verdicts(&worker, &mut tasks).await?;
    let stop = tasks.stop();
    let state = presence::State { info, health, readiness };
    tasks.spawn("presence", presence::run(worker.clone(), state, stop));
    tracing::info!(worker = %worker.id, role = role.as_str(), "worker started");

    let drained = presence::drain(worker.clone(), stopped, settings.drain_timeout());
    let served = tasks.run_until(drained, settings.drain_timeout()).await;
    worker.task_set.abort();
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
