//! Announces this worker every second, ensures its model's stream, and withdraws at the end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use chassis::StopToken;
use chassis::clock::now_ms;
use chassis::http::Readiness;
use protocol::{Ensure, WorkerState};

use super::Worker;
use super::boot::Info;
use crate::report::Report;

const BEAT: Duration = Duration::from_secs(1);
const ENSURE_TIMEOUT: Duration = Duration::from_secs(2);
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// The parts of a worker that only presence uses.
pub(super) struct State {
    pub(super) info: Info,
    pub(super) health: SocketAddr,
    pub(super) readiness: Readiness,
}

/// Announces the worker every second until `stop`.
pub(super) async fn run(worker: Arc<Worker>, state: State, stop: StopToken) -> anyhow::Result<()> {
    let presence = worker.bus.presence();
    let epoch = now_ms();
    let mut beat = tokio::time::interval(BEAT);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut stored = false;
    loop {
        tokio::select! {
            _ = beat.tick() => {}
            () = stop.cancelled() => break,
        }
        anyhow::ensure!(worker.engine.alive(), "the engine has ended");
        worker.registry().forget(Instant::now());
        if worker.bus.connected() {
            state.readiness.met("nats");
        } else {
            state.readiness.unmet("nats", "not connected");
        }
        if !stored {
            stored = ensure_stream(&worker, &state).await;
        }
        let now = describe(&worker, &state, epoch);
        worker.metrics.presence(&now, worker.bus.connected());
        if let Err(error) = presence.announce(&now).await {
            tracing::warn!(%error, "failed to announce presence");
        }
    }
    if let Ok(Err(error)) =
        tokio::time::timeout(GOODBYE_TIMEOUT, presence.withdraw(&worker.id)).await
    {
        tracing::debug!(%error, "failed to withdraw presence: it will expire");
    }
    Ok(())
}

async fn ensure_stream(worker: &Worker, state: &State) -> bool {
    let ensure = Ensure { fingerprint: worker.fingerprint, block_bytes: worker.block_bytes as u32 };
    match worker.bus.ask_store(&ensure, &bus::Context::default(), ENSURE_TIMEOUT).await {
        Ok(ready) => {
            tracing::info!(stream = ready.stream, "the store has a stream for this model");
            state.readiness.met("kvstore");
            true
        }
        Err(error) => {
            tracing::warn!(%error, "failed to ensure this model's stream, retrying");
            state.readiness.unmet("kvstore", error.to_string());
            false
        }
    }
}

fn describe(worker: &Worker, state: &State, epoch: u64) -> WorkerState {
    let report = worker.engine.report();
    worker.metrics.report(&report);
    let Report { pool, load, speed, .. } = *report;
    if pool.leaked > 0 {
        tracing::error!(pages = pool.leaked, "KV pages are held by no known sequence");
    }
    let info = &state.info;
    WorkerState {
        worker: worker.id.clone(),
        role: worker.role,
        prefill_share: info.prefill_share,
        step_tokens: worker.engine.step_tokens() as u32,
        epoch,
        ready: state.readiness.is_ready() && !worker.draining(),
        draining: worker.draining(),
        model: info.model.clone(),
        files: info.files,
        fingerprint: info.fingerprint,
        context_tokens: info.context_tokens as u32,
        device: info.device.clone(),
        queued_sequences: load.queued_sequences,
        queued_tokens: load.queued_tokens,
        queued_pairs: load.queued_pairs,
        running_sequences: load.running_sequences,
        running_tokens: load.running_tokens,
        sequences_max: info.sequences_max as u32,
        pool,
        speed,
        health_address: state.health.to_string(),
    }
}

/// Resolves after `stopped`, once nothing runs any more or the drain time is over. New jobs are
/// refused from then on, and presence says so.
pub(super) async fn drain(worker: Arc<Worker>, stopped: StopToken, limit: Duration) {
    stopped.cancelled().await;
    worker.draining.store(true, Ordering::Release);
    let until = Instant::now() + limit;
    while Instant::now() < until {
        let running = worker.registry().running().len();
        if running == 0 && worker.task_set.running() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tracing::warn!(
        requests = worker.registry().running().len(),
        "stopping with unfinished requests"
    );
}
