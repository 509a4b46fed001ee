//! Turns the events of the step loop into messages for gateways and stages of traces.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use chassis::clock::epoch_us;
use protocol::{Event, GatewayId, Leg, RequestKey, TokenBatch, TokenEvent};
use scheduling::planner::Admitted;
use tokio::sync::mpsc;
use tokio::time::sleep_until;

use super::registry::Entry;
use super::{Worker, fetch, spans, stages};
use crate::events::{Events, StepEvent, StepToken};

/// Longest time to send a batch; the gateway's own repair covers one that is not sent.
const SEND_TIMEOUT: Duration = Duration::from_secs(2);

/// Tokens within this time share a message: steps of real models take longer, and no client reads
/// faster.
const PACE: Duration = Duration::from_millis(1);
/// A request's span has a time for every this many tokens.
const PACE_TOKENS: u32 = 32;
/// Most events that wait for further ones.
const PENDING_MAX: usize = 256;

/// Relays until the step loop ends.
pub(super) async fn run(worker: Arc<Worker>, mut steps: mpsc::Receiver<Events>) {
    let mut pending = PendingBatches::default();
    loop {
        let events = tokio::select! {
            events = steps.recv() => events,
            () = sleep_until(pending.until), if pending.count != 0 => {
                pending.send(&worker).await;
                continue;
            }
        };
        let Some(mut events) = events else { break };
        for event in events.drain() {
            if let Some((gateway, event)) = on_event(&worker, event) {
                pending.add(gateway, event);
            }
        }
        drop(events);
        if pending.count != 0 && pending.is_due() {
            pending.send(&worker).await;
        }
    }
    pending.send(&worker).await;
}

/// Events that are not sent yet.
struct PendingBatches {
    batches: BTreeMap<GatewayId, Vec<Event>>,
    count: usize,
    /// True if a client waits for one of them: a first token, a last one, a failure.
    urgent: bool,
    /// The latest time to send them.
    until: tokio::time::Instant,
}

impl Default for PendingBatches {
    fn default() -> Self {
        let until = tokio::time::Instant::now();
        Self { batches: BTreeMap::new(), count: 0, urgent: false, until }
    }
}

impl PendingBatches {
    fn add(&mut self, gateway: GatewayId, event: Event) {
        self.urgent |= match &event {
            Event::Token(token) => token.opening.is_some() || token.finish.is_some(),
            Event::Failed(_) => true,
        };
        self.count += 1;
        self.batches.entry(gateway).or_default().push(event);
    }

    fn is_due(&self) -> bool {
        self.urgent || self.count >= PENDING_MAX || tokio::time::Instant::now() >= self.until
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
        Ok(Err(error)) => tracing::warn!(%gateway, %error, "failed to publish tokens"),
        Err(_) => {
            let timeout_ms = SEND_TIMEOUT.as_millis() as u64;
            tracing::warn!(%gateway, timeout_ms, "failed to publish tokens in time");
        }
    }
}

/// Handles an event of the step loop; returns the event to send and its gateway.
fn on_event(worker: &Arc<Worker>, event: StepEvent) -> Option<(GatewayId, Event)> {
    match event {
        StepEvent::Admitted { admitted, at } => {
            on_admitted(worker, admitted, at);
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
        StepEvent::Token(token) => on_token(worker, token),
    }
}

fn on_admitted(worker: &Arc<Worker>, admitted: Admitted, at: SystemTime) {
    let mut registry = worker.registry();
    let entry = registry.get_mut(&admitted.key).filter(|entry| entry.ended.is_none());
    let Some(entry) = entry else { return };
    entry.stage_times.admitted.get_or_insert(at);
    entry.fetch = Some(worker.task_set.spawn(fetch::run(worker.clone(), admitted)));
}

fn on_token(worker: &Arc<Worker>, token: StepToken) -> Option<(GatewayId, Event)> {
    let sent = SystemTime::now();
    let StepToken { key, index, token, logprob, finish, opening, chunks, preemptions } = token;
    let sent_us = epoch_us(sent);
    let mut event =
        TokenEvent { key, index, token, logprob, finish, opening, sent_us, stages: None };
    let (gateway, is_prefill) = {
        let mut registry = worker.registry();
        let entry = registry.get_mut(&key).filter(|entry| entry.ended.is_none())?;
        observe(worker, entry, &mut event, chunks, preemptions, sent);
        // A copy, since most tokens own no memory; sharing would allocate for each.
        entry.log.push(Event::Token(event.clone()));
        let is_prefill = matches!(entry.leg, Leg::Prefill { .. });
        if is_prefill {
            entry.chosen = Some((event.token, event.finish.is_some()));
        }
        let gateway = entry.gateway.clone();
        if !is_prefill && event.finish.is_some() {
            registry.end(&key, Instant::now());
        }
        (gateway, is_prefill)
    };
    after_token(worker, key, &event, is_prefill);
    Some((gateway, Event::Token(event)))
}

/// Updates metrics, stages and trace notes for a token, and adds the stages to the leg's first event.
fn observe(
    worker: &Worker,
    entry: &mut Entry,
    event: &mut TokenEvent,
    chunks: u32,
    preemptions: u32,
    sent: SystemTime,
) {
    let is_first = entry.stage_times.first_token.is_none();
    if entry.trace.is_recorded() {
        entry.trace_notes.preempted(preemptions, sent);
        if event.index.is_multiple_of(PACE_TOKENS) && !is_first {
            entry.trace_notes.pace(event.index + 1, sent);
        }
    }
    worker.metrics.token(&entry.leg, event.opening.as_deref(), entry.tokens);
    if is_first {
        entry.stage_times.first_token = Some(sent);
        let opening = event.opening.as_deref();
        worker.metrics.times.first_token(entry, opening, sent);
        stages::first_token(entry, opening, chunks, sent);
        event.stages = stages::leg_stages(entry, &worker.id);
    }
    if let Some(finish) = event.finish
        && !matches!(entry.leg, Leg::Prefill { .. })
    {
        worker.metrics.times.finished(entry, sent);
        stages::finished(entry, finish, event.index + 1, sent);
    }
}

/// Hands over and releases the lease, where the token allows it.
fn after_token(worker: &Arc<Worker>, key: RequestKey, event: &TokenEvent, is_prefill: bool) {
    if is_prefill {
        // The last block may have been stored before its token was relayed.
        worker.hand_over_when_stored(&key);
    }
    // A preempted sequence may have read under a lease again after its first token.
    if event.opening.is_some() || (!is_prefill && event.finish.is_some()) {
        worker.release_lease(key);
    }
}
