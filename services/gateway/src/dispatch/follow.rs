//! The tasks beside the generations: tokens arrive, presence changes, leases are renewed.

use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use bus::{Context, Tokens};
use chassis::StopToken;
use futures::future::join_all;
use protocol::control::KEEP_KEYS_MAX;
use protocol::{CancelReason, Keep, RequestKey, WorkerId};
use scheduling::journey::Input;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::Shared;

const RENEW_EVERY: Duration = Duration::from_secs(1);
/// About a fifth of a worker's lease.
const RENEW_TIMEOUT: Duration = Duration::from_millis(900);
const DRAIN_POLL_EVERY: Duration = Duration::from_millis(20);
/// Time for cancellations to reach the workers after the drain time.
const CANCEL_TIME: Duration = Duration::from_secs(1);

/// Delivers token events to their generations.
pub(super) async fn tokens(
    shared: Arc<Shared>,
    mut tokens: Tokens,
    stop: StopToken,
) -> anyhow::Result<()> {
    let mut drained = std::pin::pin!(drained(&shared, stop));
    loop {
        let batch = tokio::select! {
            batch = tokens.next() => batch,
            () = &mut drained => return Ok(()),
        };
        let Some(batch) = batch else { return Err(anyhow!("the token subscription ended")) };
        let worker = batch.worker;
        let inputs = batch.events.into_iter().map(|event| {
            let request = event.key().request;
            (request, Input::Event { worker: worker.clone(), event })
        });
        let unknown = shared.table.send(inputs);
        shared.counters.stale_attempt_events.inc_by(unknown);
    }
}

/// Applies presence to the fleet and notifies generations whose worker died.
pub(super) async fn presence(shared: Arc<Shared>, stop: StopToken) -> anyhow::Result<()> {
    let mut watch = shared.bus.presence().watch();
    let mut drained = std::pin::pin!(drained(&shared, stop));
    loop {
        let event = tokio::select! {
            event = watch.next() => event,
            () = &mut drained => return Ok(()),
        };
        if let Some(worker) = shared.fleet.apply(event) {
            shared.table.broadcast(|_| Input::Gone { worker: worker.clone() });
        }
    }
}

/// Renews the leases of every generation each second, until the last one has ended after the stop.
pub(super) async fn renew_leases(shared: Arc<Shared>, stop: StopToken) -> anyhow::Result<()> {
    let mut ticks = interval(RENEW_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut drained = std::pin::pin!(drained(&shared, stop));
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = &mut drained => return Ok(()),
        }
        let keys = shared.table.keys_by_worker();
        join_all(keys.into_iter().map(|(worker, keys)| renew(&shared, worker, keys))).await;
    }
}

async fn renew(shared: &Shared, worker: WorkerId, keys: Vec<RequestKey>) {
    for keys in keys.chunks(KEEP_KEYS_MAX) {
        let message = Keep { keys: keys.to_vec() };
        let context = Context::default();
        match shared.bus.ask_worker(&worker, &message, &context, RENEW_TIMEOUT).await {
            Ok(reply) => {
                let unknown = reply.unknown.into_iter().map(|key| {
                    let worker = worker.clone();
                    (key.request, Input::Unknown { worker, key })
                });
                shared.table.send(unknown);
            }
            Err(error) if error.is_no_responders() => return shared.lose(&worker),
            // Presence decides whether a silent worker is gone.
            Err(error) => tracing::warn!(%worker, %error, "lease renewal failed"),
        }
    }
}

/// Resolves after the stop, once the last generation has ended or was cancelled.
async fn drained(shared: &Shared, stop: StopToken) {
    stop.cancelled().await;
    let until = Instant::now() + shared.limits.drain;
    let ended = async {
        while shared.table.len() > 0 {
            sleep(DRAIN_POLL_EVERY).await;
        }
    };
    tokio::select! {
        () = ended => {}
        () = sleep_until(until) => {
            shared.table.broadcast(|_| Input::Stop(CancelReason::Shutdown));
            sleep(CANCEL_TIME).await;
        }
    }
}
