//! Turns what the step loop reports into messages for gateways and stages of the trace.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use protocol::{Event, GatewayId, Leg, TokenBatch, TokenEvent};
use tokio::sync::mpsc;
use tokio::time::sleep_until;

use super::{Worker, fetch, spans, stages};
use crate::events::{Events, StepEvent};

/// A batch that cannot be sent in this time is left to the gateway's own repair.
const SEND_TIMEOUT: Duration = Duration::from_secs(2);

/// Tokens that come faster than one message in this time share one: steps of real models take
/// longer, and nobody reads faster.
const PACE: Duration = Duration::from_millis(1);
/// A request's span tells when each so many tokens were known.
const PACE_TOKENS: u32 = 32;
/// Events that may wait for company.
const COMPANY_MAX: usize = 256;

/// Relays until the step loop ends.
pub(super) async fn run(worker: Arc<Worker>, mut steps: mpsc::Receiver<Events>) {
    let mut waiting = Waiting::default();
    loop {
        let events = tokio::select! {
            events = steps.recv() => events,
            () = sleep_until(waiting.until), if waiting.count != 0 => {
                waiting.send(&worker).await;
                continue;
            }
        };
        let Some(mut events) = events else { break };
        for event in events.drain() {
            if let Some((gateway, event)) = take(&worker, event) {
                waiting.add(gateway, event);
            }
        }
        drop(events);
        if waiting.count != 0 && waiting.may_go() {
            waiting.send(&worker).await;
        }
    }
    waiting.send(&worker).await;
}

/// Events on their way to gateways.
struct Waiting {
    batches: BTreeMap<GatewayId, Vec<Event>>,
    count: usize,
    /// Somebody waits for one of them: a first token, a last one, a failure.
    urgent: bool,
    /// When they go at the latest.
    until: tokio::time::Instant,
}

impl Default for Waiting {
    fn default() -> Self {
        let until = tokio::time::Instant::now();
        Self { batches: BTreeMap::new(), count: 0, urgent: false, until }
    }
}

impl Waiting {
    fn add(&mut self, gateway: GatewayId, event: Event) {
        self.urgent |= match &event {
            Event::Token(token) => token.opening.is_some() || token.finish.is_some(),
            Event::Failed(_) => true,
        };
        self.count += 1;
        self.batches.entry(gateway).or_default().push(event);
    }

    fn may_go(&self) -> bool {
        self.urgent || COMPANY_MAX <= self.count || self.until <= tokio::time::Instant::now()
    }

    async fn send(&mut self, worker: &Worker) {
        for (gateway, events) in std::mem::take(&mut self.batches) {
            send(worker, &gateway, events).await;
        }
        (self.count, self.urgent) = (0, false);
        self.until = tokio::time::Instant::now() + PACE;
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
        StepEvent::Stepped(step) => {
            spans::stepped(&worker.tracer, &mut worker.registry(), *step);
            None
        }
        StepEvent::Token { key, index, token, logprob, finish, opening, chunks, preemptions } => {
            let sent = SystemTime::now();
            let sent_us = sent.duration_since(UNIX_EPOCH).map_or(0, |at| at.as_micros() as u64);
            let stages = None;
            let mut event =
                TokenEvent { key, index, token, logprob, finish, opening, sent_us, stages };
            let (gateway, prefill) = {
                let mut registry = worker.registry();
                let entry = registry.get_mut(&key).filter(|entry| entry.ended.is_none())?;
                let first = entry.marks.first_token.is_none();
                if entry.trace.is_recorded() {
                    entry.notes.preempted(preemptions, sent);
                    if index % PACE_TOKENS == 0 && !first {
                        entry.notes.pace(index + 1, sent);
                    }
                }
                worker.metrics.token(&entry.leg, event.opening.as_deref(), entry.tokens);
                if first {
                    entry.marks.first_token = Some(sent);
                    let opening = event.opening.as_deref();
                    worker.metrics.times.first_token(entry, opening, sent);
                    stages::first_token(entry, opening, chunks, sent);
                    event.stages = stages::told(entry, &worker.id);
                }
                entry.log.push(Event::Token(event.clone()));
                let prefill = matches!(entry.leg, Leg::Prefill { .. });
                if prefill {
                    entry.chosen = Some((event.token, event.finish.is_some()));
                } else if let Some(finish) = event.finish {
                    worker.metrics.times.finished(entry, sent);
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
