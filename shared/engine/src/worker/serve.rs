//! Handles the messages to this worker: jobs, hand-overs, lease renewals, repairs, cancellations.
//! Every handler is idempotent on request and attempt.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bus::Call;
use chassis::clock::now_ms;
use chassis::telemetry::Trace;
use protocol::control::MissedReply;
use protocol::{
    Acknowledged, Answer, Cancel, ErrorClass, Event, Failure, Job, Keep, KeepReply, Leg, Missed,
    PromptDone, Refusal,
};
use scheduling::sequence::{NewSequence, Part};
use tokio::sync::watch;

use super::Worker;
use super::registry::{Entry, KeyStatus, StageTimes, TraceNotes, Upload};
use super::spans::{self, Receipt};
use crate::handle::SamplingState;

/// Accepts or refuses a job.
pub(super) async fn job(worker: Arc<Worker>, call: Call<Job>) {
    let Call { message: job, context, responder } = call;
    let receipt = Receipt {
        key: job.key,
        leg: job.leg.as_str(),
        sent: sent_at(job.sent_us),
        received: SystemTime::now(),
    };
    let trace = worker.tracer.continue_from(context.of_request());
    let answer = match accept(&worker, job, trace.clone()) {
        Ok(()) => Answer::Accepted,
        Err(refusal) => {
            worker.metrics.refused(refusal.class);
            let (request, trace_id) = (receipt.key.request, trace.trace_id());
            tracing::info!(%request, %trace_id, %refusal, "refused a job");
            Answer::Refused(refusal)
        }
    };
    log_failed_reply(responder.answer(&answer).await, "job");
    if trace.is_recorded() && context.request.is_some() {
        let sending = worker.tracer.continue_from(context.traceparent.as_deref());
        spans::processed(&sending, &receipt, &answer);
    }
}

fn accept(worker: &Worker, job: Job, trace: Trace) -> Result<(), Refusal> {
    job.check()?;
    if worker.draining() {
        return Err(Refusal::new(ErrorClass::Retry, "this worker is shutting down"));
    }
    if !worker.engine.alive() {
        return Err(Refusal::new(ErrorClass::Retry, "this worker's engine has ended"));
    }
    let key = job.key;
    match worker.key_status(&key) {
        KeyStatus::Known => return Ok(()),
        KeyStatus::Stale(attempt) => {
            worker.metrics.stale_attempt();
            let message = format!("attempt {} is superseded by {}", key.attempt.0, attempt.0);
            return Err(Refusal::new(ErrorClass::Cancelled, message));
        }
        KeyStatus::New(Some(older)) => {
            worker.engine.cancel(&older);
            worker.registry().end(&older, Instant::now());
        }
        KeyStatus::New(None) => {}
    }
    let mut state = SamplingState::new(job.sampling, job.top_logprobs, job.prompt_logprobs);
    state.traced = trace.is_sampled();
    let left_ms = job.deadline_ms.saturating_sub(now_ms());
    let sequence = NewSequence {
        key,
        part: match job.leg {
            Leg::Prefill { .. } => Part::Prefill,
            Leg::Decode { .. } => Part::Decode,
            Leg::Whole => Part::Whole,
        },
        prompt: job.prompt,
        output: job.output,
        stopping: job.stopping,
        scope: job.scope,
        score_prompt: job.prompt_logprobs.is_some(),
        deadline_ms: job.deadline_ms,
    };
    let entry = Entry {
        key,
        gateway: job.gateway,
        leg: job.leg,
        scope: job.scope,
        trace,
        sent: sent_at(job.sent_us),
        deadline: Instant::now() + Duration::from_millis(left_ms),
        tokens: sequence.prompt.len() + sequence.output.len(),
        log: Vec::new(),
        stage_times: StageTimes::default(),
        upload: Upload::default(),
        trace_notes: TraceNotes::default(),
        chosen: None,
        handover: watch::Sender::new(None),
        report_stages: job.stages,
        leased: false,
        fetch: None,
        ended: None,
    };
    // Registered before it is submitted, so that its first events find it.
    worker.registry().insert(entry);
    let submitted = worker.engine.submit(sequence, state, now_ms());
    if submitted.is_err() {
        worker.registry().remove(&key);
    }
    submitted
}

/// Returns the time of sending, at most now: a clock that runs ahead on another machine must not
/// make a stage end before it starts.
pub(super) fn sent_at(sent_us: u64) -> SystemTime {
    (UNIX_EPOCH + Duration::from_micros(sent_us)).min(SystemTime::now())
}

/// Accepts a hand-over.
pub(super) async fn prompt_done(worker: Arc<Worker>, call: Call<PromptDone>) {
    let Call { message: done, responder, .. } = call;
    worker.registry().hand_over(done, Instant::now());
    log_failed_reply(responder.answer(&Acknowledged {}).await, "prompt_done");
}

/// Cancels a request.
pub(super) async fn cancel(worker: Arc<Worker>, call: Call<Cancel>) {
    let Call { message: Cancel { key, reason }, responder, .. } = call;
    let known = match worker.key_status(&key) {
        KeyStatus::Known => Some(key),
        KeyStatus::New(older) => older,
        KeyStatus::Stale(_) => None,
    };
    if let Some(key) = known {
        worker.cancel(&key, reason.as_str());
        worker.metrics.cancelled(reason);
    }
    log_failed_reply(responder.answer(&Acknowledged {}).await, "cancel");
}

/// Renews leases.
pub(super) async fn keep(worker: Arc<Worker>, call: Call<Keep>) {
    let Call { message: Keep { keys }, responder, .. } = call;
    let not_in_engine = worker.engine.renew(&keys, now_ms());
    let unknown = {
        let registry = worker.registry();
        not_in_engine.into_iter().filter(|key| !registry.runs(key)).collect()
    };
    log_failed_reply(responder.answer(&KeepReply { unknown }).await, "keep");
}

/// Sends again the events that the gateway missed.
pub(super) async fn missed(worker: Arc<Worker>, call: Call<Missed>) {
    let Call { message: Missed { key, from }, responder, .. } = call;
    let answer = {
        let registry = worker.registry();
        match registry.get(&key) {
            None => MissedReply { events: Vec::new(), known: false },
            Some(entry) => {
                let events = entry.log.iter().filter(|event| match event {
                    Event::Token(token) => token.index >= from,
                    Event::Failed(_) => true,
                });
                MissedReply { events: events.cloned().collect(), known: true }
            }
        }
    };
    log_failed_reply(responder.answer(&answer).await, "missed");
}

impl Worker {
    /// Cancels a request on this worker and closes its stage as cancelled for `reason`.
    pub(super) fn cancel(&self, key: &protocol::RequestKey, reason: &'static str) {
        self.engine.cancel(key);
        let mut registry = self.registry();
        if let Some(entry) = registry.get(key).filter(|entry| entry.ended.is_none()) {
            super::stages::cancelled(entry, reason, SystemTime::now());
        }
        registry.end(key, Instant::now());
    }

    /// Ends a request and returns the failure to send to its gateway.
    pub(super) fn failure(&self, key: protocol::RequestKey, refusal: Refusal) -> Event {
        self.metrics.failed(refusal.class);
        let event = Event::Failed(Failure { key, refusal });
        let mut registry = self.registry();
        if let Some(entry) = registry.get_mut(&key) {
            entry.log.push(event.clone());
        }
        drop(registry);
        self.cancel(&key, "failed");
        event
    }
}

fn log_failed_reply(sent: Result<(), bus::PublishError>, verb: &'static str) {
    if let Err(error) = sent {
        tracing::warn!(%error, verb, "failed to send a reply");
    }
}
