//! Turns what the step loop reports into messages for gateways and stages of the trace.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use protocol::{Event, GatewayId, Leg, TokenBatch, TokenEvent};
use tokio::sync::mpsc;

use super::{Worker, fetch, stages};
use crate::events::{Events, StepEvent};

/// A batch that cannot be sent in this time is left to the gateway's own repair.
const SEND_TIMEOUT: Duration = Duration::from_secs(2);

/// Relays until the step loop ends.
pub(super) async fn run(worker: Arc<Worker>, mut steps: mpsc::Receiver<Events>) {
    while let Some(mut events) = steps.recv().await {
        let mut batches: BTreeMap<GatewayId, Vec<Event>> = BTreeMap::new();
        for event in events.drain() {
            if let Some((gateway, event)) = take(&worker, event) {
                batches.entry(gateway).or_default().push(event);
            }
        }
        for (gateway, events) in batches {
            send(&worker, &gateway, events).await;
        }
    }
}

async fn send(worker: &Worker, gateway: &GatewayId, events: Vec<Event>) {
    let batch = TokenBatch { worker: worker.id.clone(), events };
    let sent = tokio::time::timeout(SEND_TIMEOUT, worker.bus.send_tokens(gateway, &batch)).await;
    match sent {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%gateway, %error, "tokens not sent"),
        Err(_) => tracing::warn!(%gateway, "tokens not sent in time"),
    }
}

fn take(worker: &Arc<Worker>, event: StepEvent) -> Option<(GatewayId, Event)> {
    match event {
        StepEvent::Admitted { admitted, at } => {
            let key = admitted.key;
            let mut registry = worker.registry();
            let entry = registry.get_mut(&key).filter(|entry| entry.ended.is_none())?;
            entry.marks.admitted.get_or_insert(at);
            entry.fetch = Some(worker.crew.spawn(fetch::run(worker.clone(), admitted)));
            None
        }
        StepEvent::Failed { key, refusal } => {
            let gateway = worker.registry().get(&key)?.gateway.clone();
            Some((gateway, worker.failure(key, refusal)))
        }
        StepEvent::Token { key, index, token, logprob, finish, opening, chunks } => {
            let sent = SystemTime::now();
            let sent_us = sent.duration_since(UNIX_EPOCH).map_or(0, |at| at.as_micros() as u64);
            let event = TokenEvent { key, index, token, logprob, finish, opening, sent_us };
            let (gateway, prefill) = {
                let mut registry = worker.registry();
                let entry = registry.get_mut(&key).filter(|entry| entry.ended.is_none())?;
                let first = entry.marks.first_token.is_none();
                worker.metrics.token(&entry.leg, event.opening.as_deref(), entry.tokens);
                if first {
                    entry.marks.first_token = Some(sent);
                    stages::first_token(entry, event.opening.as_deref(), chunks, sent);
                }
                entry.log.push(Event::Token(event.clone()));
                let prefill = matches!(entry.leg, Leg::Prefill { .. });
                if prefill {
                    entry.chosen = Some((event.token, event.finish.is_some()));
                } else if let Some(finish) = event.finish {
                    stages::finished(entry, finish, index + 1, sent);
                }
                let gateway = entry.gateway.clone();
                if !prefill && event.finish.is_some() {
                    registry.end(&key, Instant::now());
                }
                (gateway, prefill)
            };
            if prefill {
                // The last block may have been stored before its token was relayed.
                worker.hand_over_when_stored(&key);
            }
            // A preempted sequence may have read under a lease again after its first token.
            if event.opening.is_some() || (!prefill && event.finish.is_some()) {
                worker.release_lease(key);
            }
            Some((gateway, Event::Token(event)))
        }
    }
}
