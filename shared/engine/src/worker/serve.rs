//! Answers what other parties ask of this worker: jobs, hand-overs, keep-alives, repairs,
//! cancellations. Every handler is idempotent on request and attempt.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bus::Call;
use chassis::telemetry::Trace;
use protocol::control::MissedReply;
use protocol::{
    Acknowledged, Answer, Cancel, ErrorClass, Event, Failure, Job, Keep, KeepReply, Leg, Missed,
    PromptDone, Refusal,
};
use scheduling::sequence::{NewSequence, Part};
use tokio::sync::watch;

use super::registry::{Entry, Marks, Notes, Puts, Standing};
use super::{Worker, spans};
use crate::handle::Extras;
use crate::stepper::unix_ms;

/// Takes or refuses a job.
pub(super) async fn job(worker: Arc<Worker>, call: Call<Job>) {
    let Call { message: job, context, responder } = call;
    let received = SystemTime::now();
    let trace = worker.tracer.continue_from(context.of_request());
    let answer = match accept(&worker, &job, trace.clone()) {
        Ok(()) => Answer::Accepted,
        Err(refusal) => {
            worker.metrics.refused(refusal.class);
            let (request, trace_id) = (job.key.request, trace.trace_id());
            tracing::info!(%request, %trace_id, %refusal, "job refused");
            Answer::Refused(refusal)
        }
    };
    reply(responder.answer(&answer).await, "job");
    if trace.is_recorded() && context.request.is_some() {
        let sending = worker.tracer.continue_from(context.traceparent.as_deref());
        spans::processed(&sending, &job, &answer, received);
    }
}

fn accept(worker: &Worker, job: &Job, trace: Trace) -> Result<(), Refusal> {
    job.check()?;
    if worker.draining() {
        return Err(Refusal::new(ErrorClass::Retry, "this worker is shutting down"));
    }
    if !worker.engine.alive() {
        return Err(Refusal::new(ErrorClass::Retry, "this worker's engine has ended"));
    }
    match worker.standing(&job.key) {
        Standing::Known => return Ok(()),
        Standing::Fenced(attempt) => {
            worker.metrics.stale_attempt();
            let message = format!("attempt {} is superseded by {}", job.key.attempt.0, attempt.0);
            return Err(Refusal::new(ErrorClass::Cancelled, message));
        }
        Standing::New(Some(older)) => {
            worker.engine.cancel(&older);
            worker.registry().end(&older, Instant::now());
        }
        Standing::New(None) => {}
    }
    // Known before it is submitted, so that its first events find it.
    let mut extras = Extras::new(job.sampling.clone(), job.top_logprobs, job.prompt_logprobs);
    extras.traced = trace.is_sampled();
    worker.registry().insert(entry(job, trace));
    let submitted = worker.engine.submit(sequence(job), extras, unix_ms());
    if submitted.is_err() {
        worker.registry().remove(&job.key);
    }
    submitted
}

fn sequence(job: &Job) -> NewSequence {
    NewSequence {
        key: job.key,
        part: match job.leg {
            Leg::Prefill { .. } => Part::Prefill,
            Leg::Decode { .. } => Part::Decode,
            Leg::Whole => Part::Whole,
        },
        prompt: job.prompt.clone(),
        output: job.output.clone(),
        stopping: job.stopping.clone(),
        scope: job.scope,
        score_prompt: job.prompt_logprobs.is_some(),
        deadline_ms: job.deadline_ms,
    }
}

fn entry(job: &Job, trace: Trace) -> Entry {
    let left_ms = job.deadline_ms.saturating_sub(unix_ms());
    Entry {
        key: job.key,
        gateway: job.gateway.clone(),
        leg: job.leg.clone(),
        scope: job.scope,
        trace,
        sent: sent_at(job.sent_us),
        deadline: Instant::now() + Duration::from_millis(left_ms),
        tokens: job.prompt.len() + job.output.len(),
        log: Vec::new(),
        marks: Marks::default(),
        puts: Puts::default(),
        notes: Notes::default(),
        chosen: None,
        handover: watch::Sender::new(None),
        tell_stages: job.stages,
        leased: false,
        fetch: None,
        ended: None,
    }
}

/// A clock that runs ahead elsewhere must not make a stage end before it starts.
pub(super) fn sent_at(sent_us: u64) -> SystemTime {
    (UNIX_EPOCH + Duration::from_micros(sent_us)).min(SystemTime::now())
}

/// Takes a hand-over.
pub(super) async fn prompt_done(worker: Arc<Worker>, call: Call<PromptDone>) {
    let Call { message: done, responder, .. } = call;
    worker.registry().hand_over(done, Instant::now());
    reply(responder.answer(&Acknowledged {}).await, "prompt_done");
}

/// Gives a request up.
pub(super) async fn cancel(worker: Arc<Worker>, call: Call<Cancel>) {
    let Call { message: Cancel { key, reason }, responder, .. } = call;
    let known = match worker.standing(&key) {
        Standing::Known => Some(key),
        Standing::New(older) => older,
        Standing::Fenced(_) => None,
    };
    if let Some(key) = known {
        worker.give_up(&key, reason.as_str());
        worker.metrics.cancelled(reason);
    }
    reply(responder.answer(&Acknowledged {}).await, "cancel");
}

/// Renews leases.
pub(super) async fn keep(worker: Arc<Worker>, call: Call<Keep>) {
    let Call { message: Keep { keys }, responder, .. } = call;
    let not_in_engine = worker.engine.keep(&keys, unix_ms());
    let unknown = {
        let registry = worker.registry();
        not_in_engine.into_iter().filter(|key| !registry.runs(key)).collect()
    };
    reply(responder.answer(&KeepReply { unknown }).await, "keep");
}

/// Repeats what the gateway missed.
pub(super) async fn missed(worker: Arc<Worker>, call: Call<Missed>) {
    let Call { message: Missed { key, from }, responder, .. } = call;
    let answer = {
        let registry = worker.registry();
        match registry.get(&key) {
            None => MissedReply { events: Vec::new(), known: false },
            Some(entry) => {
                let wanted = |event: &&Event| match event {
                    Event::Token(token) => from <= token.index,
                    Event::Failed(_) => true,
                };
                let events = entry.log.iter().filter(wanted).cloned().collect();
                MissedReply { events, known: true }
            }
        }
    };
    reply(responder.answer(&answer).await, "missed");
}

impl Worker {
    /// Stops a request here and closes its stage as given up.
    pub(super) fn give_up(&self, key: &protocol::RequestKey, reason: &'static str) {
        self.engine.cancel(key);
        let mut registry = self.registry();
        if let Some(entry) = registry.get(key).filter(|entry| entry.ended.is_none()) {
            super::stages::given_up(entry, reason, SystemTime::now());
        }
        registry.end(key, Instant::now());
    }

    /// Ends a request with a failure that the gateway is to hear of.
    pub(super) fn failure(&self, key: protocol::RequestKey, refusal: Refusal) -> Event {
        self.metrics.failed(refusal.class);
        let event = Event::Failed(Failure { key, refusal });
        let mut registry = self.registry();
        if let Some(entry) = registry.get_mut(&key) {
            entry.log.push(event.clone());
        }
        drop(registry);
        self.give_up(&key, "failed");
        event
    }
}

fn reply(sent: Result<(), bus::PublishError>, verb: &'static str) {
    if let Err(error) = sent {
        tracing::warn!(%error, verb, "answer not sent");
    }
}
