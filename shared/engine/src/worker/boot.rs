//! Starts a worker's parts: the model on its thread, the health endpoints, the subscriptions.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::Router;
use bus::Call;
use chassis::{Settings, Tasks, settings};
use model::{Model, ModelLimits};
use modelfile::ModelFile;
use protocol::subject::WorkerRequest;
use protocol::{FileDigest, ModelFingerprint, Role};
use scheduling::planner::{Limits, Planner};
use tokio::net::TcpListener;

use super::{Worker, answer, serve};
use crate::choice;
use crate::compute::ComputeError;
use crate::simulated::Simulated;
use crate::stepper::{self, Engine, Loaded};

/// KV bytes of all sequences that may wait for the store.
const PENDING_BYTES_MAX: usize = 64 << 20;
/// Longest wait for the last step.
const JOIN_TIMEOUT: Duration = Duration::from_secs(3);
/// Time that a request lives without a renewal.
const LEASE_MS: u64 = 5_000;

/// Facts about a loaded model.
#[derive(Clone, Debug)]
pub(super) struct Info {
    pub(super) model: String,
    pub(super) files: FileDigest,
    pub(super) fingerprint: ModelFingerprint,
    pub(super) context_tokens: usize,
    pub(super) sequences_max: usize,
    pub(super) prefill_share: f32,
    pub(super) block_bytes: usize,
    pub(super) device: String,
}

/// Loads the model, or the simulated one, on the engine's thread.
pub(super) async fn load(settings: &Settings, role: Role) -> anyhow::Result<Engine<Info>> {
    let settings = settings.clone();
    let started = Instant::now();
    let loaded = tokio::task::spawn_blocking(move || match settings.engine {
        settings::Engine::Simulated => stepper::start(move || Ok(simulate(&settings, role))),
        settings::Engine::Model => stepper::start(move || load_model(&settings, role)),
    });
    let engine = loaded.await.context("load the model")?.context("load the model")?;
    let Info { model, device, .. } = &engine.info;
    tracing::info!(model, device, seconds = started.elapsed().as_secs_f32(), "loaded the model");
    Ok(engine)
}

fn load_model(settings: &Settings, role: Role) -> Result<Loaded<Model, Info>, ComputeError> {
    let failed = |error: &dyn std::fmt::Display| ComputeError(error.to_string());
    let path = settings.model.path.as_deref().ok_or_else(|| {
        ComputeError("model.path is not set: expected a GGUF file or a safetensors folder".into())
    })?;
    let path = provision::hub::model(path).map_err(|error| failed(&error))?;
    let file = ModelFile::open(&path).map_err(|error| failed(&error))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if settings.threads == 0 { cores } else { settings.threads };
    let limits = ModelLimits {
        kv_pages: settings.worker.kv_pages,
        threads,
        isa: choice::isa(settings.isa),
        activations: choice::activations(settings.activations),
    };
    let mut next_share = 0.0;
    let loaded_model =
        Model::load(&file, &choice::device(settings.device), &limits, &mut |share| {
            if share >= next_share {
                tracing::info!(percent = (100.0 * share) as u32, "loading the model");
                next_share = share + 0.25;
            }
        });
    let model = loaded_model.map_err(|error| failed(&error))?;
    let files = FileDigest(file.digest().map_err(|error| failed(&error))?);
    let fingerprint = ModelFingerprint::new(files, &model.kv_format());
    let info = Info {
        model: settings.model.name.clone().unwrap_or_else(|| file.name().to_owned()),
        files,
        fingerprint,
        context_tokens: model.spec().context_tokens,
        sequences_max: settings.worker.max_sequences,
        prefill_share: prefill_share(settings, role),
        block_bytes: model.block_bytes(),
        device: device_name(&model),
    };
    Ok(loaded(model, settings, info))
}

/// Names the device, and says why its activations have their precision.
fn device_name(model: &Model) -> String {
    let name = &model.device().name;
    match model.activations() {
        Some(activations) => format!("{name} ({})", activations.reason),
        None => name.clone(),
    }
}

fn simulate(settings: &Settings, role: Role) -> Loaded<Simulated, Info> {
    let files = protocol::simulated::files();
    let info = Info {
        model: settings.model.name.clone().unwrap_or(protocol::simulated::NAME.to_owned()),
        files,
        fingerprint: ModelFingerprint::new(files, &Simulated::kv_format(&settings.simulated)),
        context_tokens: protocol::simulated::CONTEXT_TOKENS as usize,
        sequences_max: settings.worker.max_sequences,
        prefill_share: prefill_share(settings, role),
        block_bytes: settings.simulated.block_bytes,
        device: "simulated".to_owned(),
    };
    let compute = Simulated::new(settings.simulated.clone(), settings.worker.kv_pages);
    loaded(compute, settings, info)
}

fn prefill_share(settings: &Settings, role: Role) -> f32 {
    let default = match role {
        Role::Prefill => 1.0,
        Role::Decode => 0.0,
    };
    settings.worker.prefill_share.map_or(default, |share| share as f32)
}

/// Joins the compute with a planner that fits it.
fn loaded<C>(compute: C, settings: &Settings, info: Info) -> Loaded<C, Info> {
    let planner_limits = Limits {
        context_tokens: info.context_tokens,
        step_tokens: settings.worker.step_tokens,
        prefill_share: info.prefill_share,
        sequences_max: info.sequences_max,
        queue_max: settings.worker.queue_sequences,
        lease_ms: LEASE_MS,
    };
    let planner = Planner::new(planner_limits, info.fingerprint, settings.worker.kv_pages as u32);
    let blocks_max = (PENDING_BYTES_MAX / info.block_bytes).clamp(16, 8192);
    Loaded { compute, planner, blocks_max, info }
}

/// Waits for the engine's thread, which ends after its present step once the last handle is gone.
pub(super) async fn join(thread: std::thread::JoinHandle<()>) {
    let joined = tokio::task::spawn_blocking(move || thread.join());
    match tokio::time::timeout(JOIN_TIMEOUT, joined).await {
        Ok(Ok(Ok(()))) => {}
        Ok(_) => tracing::error!("engine thread panicked"),
        Err(_) => tracing::warn!("engine thread is still in a step, stopping without it"),
    }
}

/// Serves `/health`, `/ready` and `/metrics`; returns the address.
pub(super) async fn health(
    settings: &Settings,
    tasks: &mut Tasks,
    router: Router,
) -> anyhow::Result<SocketAddr> {
    let listen = &settings.health.listen;
    let listener =
        TcpListener::bind(listen).await.with_context(|| format!("listen on {listen}"))?;
    let address = listener.local_addr().context("read the health address")?;
    let stop = tasks.stop();
    tasks.spawn("health", async move {
        chassis::http::serve(listener, router, stop).await.context("serve health")
    });
    Ok(address)
}

/// Subscribes to every message for a worker.
pub(super) async fn listen(worker: &Arc<Worker>, tasks: &mut Tasks) -> anyhow::Result<()> {
    serve_one(worker, tasks, serve::job).await?;
    serve_one(worker, tasks, serve::prompt_done).await?;
    serve_one(worker, tasks, serve::cancel).await?;
    serve_one(worker, tasks, serve::keep).await?;
    serve_one(worker, tasks, serve::missed).await
}

async fn serve_one<M, F>(
    worker: &Arc<Worker>,
    tasks: &mut Tasks,
    handle: fn(Arc<Worker>, Call<M>) -> F,
) -> anyhow::Result<()>
where
    M: WorkerRequest,
    F: Future<Output = ()> + Send + 'static,
{
    let incoming = worker.bus.serve_worker::<M>(&worker.id).await?;
    tasks.spawn(M::VERB, answer(worker.clone(), incoming, tasks.stop(), handle));
    Ok(())
}

/// Applies the trace verdicts of gateways to held spans.
pub(super) async fn follow_verdicts(worker: &Arc<Worker>, tasks: &mut Tasks) -> anyhow::Result<()> {
    if !worker.tracer.is_keeping() {
        return Ok(());
    }
    let (tracer, stop) = (worker.tracer.clone(), tasks.stop());
    let mut verdicts = worker.bus.verdicts().await.context("subscribe to trace verdicts")?;
    tasks.spawn("verdicts", async move {
        loop {
            tokio::select! {
                decided = verdicts.next() => {
                    tracer.apply_verdicts(&decided.context("the subscription to trace verdicts ended")?);
                }
                () = stop.cancelled() => return Ok(()),
            }
        }
    });
    Ok(())
}
