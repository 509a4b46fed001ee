//! The task of one generation: it performs the actions of the journey and reports their results to it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bus::Context;
use chassis::clock::{epoch_ms, epoch_us};
use chassis::telemetry::names;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use protocol::{
    Attempt, Cancel, CancelReason, ErrorClass, Job, Leg, Missed, Refusal, RequestKey, Role,
    TokenEvent, WorkerId,
};
use scheduling::journey::{Action, End, Input, Journey};
use scheduling::route::{Choice, Names, Placement};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::client::{Client, send_end};
use super::spans::{self, LostAttempt, Publishing};
use super::{Admission, Generation, GenerationEvent, Shared};
use crate::dispatch::fleet::Load;

mod prediction;

/// Workers reply to a job within milliseconds. Presence notices a dead worker before this timeout.
const JOB_TIMEOUT: Duration = Duration::from_secs(4);
const MISSED_TIMEOUT: Duration = Duration::from_secs(1);
const CANCEL_TIMEOUT: Duration = Duration::from_secs(1);
/// A worker that receives no cancellation frees the sequence when its lease ends.
const CANCEL_TRIES: u32 = 3;

/// The task of one generation.
pub(super) struct GenerationTask {
    shared: Arc<Shared>,
    generation: Generation,
    journey: Journey,
    inbox: mpsc::Receiver<Input>,
    client: Client,
    /// Requests to workers under way.
    pending: FuturesUnordered<BoxFuture<'static, Option<Input>>>,
    /// Begin of this attempt's route stage.
    routing: SystemTime,
    /// The attempt that was sent last, and its time.
    sent: Option<(Attempt, SystemTime)>,
    /// Arrival of its last token, or else the time at which it was sent.
    last_event: SystemTime,
    placement: Option<Placement>,
    /// This gateway's hashes of the prompt's blocks.
    hashes: Names,
    /// Prompt tokens that are expected to be stored, until a worker reports the actual number.
    expected_cached: Option<u32>,
    /// The route stage of this attempt, until its prediction is compared.
    routed: Option<spans::Routed>,
    /// Arrival of the first token, while the attempt that brought it lasts.
    first_token: Option<SystemTime>,
    /// The lease holders in the table, and their attempt.
    holders: Vec<WorkerId>,
    held: Attempt,
    /// The failure to send to the client at the end.
    failure: Option<Refusal>,
    /// The loads of this attempt in the fleet.
    loads: Vec<Load>,
}

impl GenerationTask {
    pub(super) fn new(
        shared: Arc<Shared>,
        generation: Generation,
        admission: Admission,
        inbox: mpsc::Receiver<Input>,
        client: Client,
    ) -> Self {
        let deadline_ms = epoch_ms(generation.deadline);
        let (journey, _) = Journey::new(generation.request, deadline_ms, shared.limits.journey);
        Self {
            shared,
            generation,
            journey,
            inbox,
            client,
            pending: FuturesUnordered::new(),
            routing: admission.at,
            sent: None,
            last_event: admission.at,
            hashes: admission.hashes,
            expected_cached: None,
            placement: None,
            routed: None,
            first_token: None,
            holders: Vec::new(),
            held: Attempt(0),
            failure: None,
            loads: Vec::new(),
        }
    }

    /// Runs the generation to its end.
    pub(super) async fn run(mut self) {
        self.perform(VecDeque::from([Action::Place]));
        while !self.journey.ended() {
            let Some(input) = self.next_input().await else { continue };
            let actions = self.journey.on(epoch_ms(SystemTime::now()), input);
            self.perform(actions.into());
        }
        self.release_loads();
        self.routed = None;
        self.shared.table.remove(self.generation.request);
        let (closed, _) = mpsc::channel(1);
        let events = std::mem::replace(&mut self.client.events, closed);
        let sending = send_end(events, self.client.started.take(), self.failure.take());
        tokio::join!(sending, self.free_workers());
        self.shared.counters.add(self.journey.tally());
    }

    /// Waits for cancellations to arrive, and cancels jobs that a worker accepts late.
    async fn free_workers(&mut self) {
        while let Some(input) = self.pending.next().await {
            let Some(input) = input else { continue };
            let actions = self.journey.on(epoch_ms(SystemTime::now()), input);
            self.perform(actions.into());
        }
    }

    /// Waits for the next input; `None` if a finished request to a worker produced none.
    async fn next_input(&mut self) -> Option<Input> {
        let wake_ms = self.journey.wake_ms().saturating_sub(epoch_ms(SystemTime::now()));
        let stopped = async {
            match &mut self.client.stopped {
                Some(stopped) => stopped.await.unwrap_or(CancelReason::ClientGone),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            reason = stopped => {
                self.client.stopped = None;
                Some(Input::Stop(reason))
            }
            Some(input) = self.inbox.recv() => Some(input),
            Some(input) = self.pending.next() => input,
            () = sleep(Duration::from_millis(wake_ms)) => Some(Input::Tick),
        }
    }

    /// Performs actions and what follows from them.
    fn perform(&mut self, mut actions: VecDeque<Action>) {
        while let Some(action) = actions.pop_front() {
            let mut follows = None;
            match action {
                Action::Place => follows = Some(self.place()),
                Action::Send { worker, leg } => self.send(worker, leg),
                Action::Started => self.notify_started(),
                Action::Deliver(event) => {
                    self.notify_started();
                    self.release_prompt();
                    follows = self.deliver(event);
                }
                Action::AskMissed { worker, key, from } => self.ask_missed(worker, key, from),
                Action::Cancel { worker, key, reason } => self.cancel(worker, key, reason),
                Action::End(end) => self.failure = self.failure_of(end),
            }
            if let Some(input) = follows {
                actions.extend(self.journey.on(epoch_ms(SystemTime::now()), input));
            }
        }
        self.update_holders();
    }

    /// Returns the failure that the client must still receive.
    fn failure_of(&self, end: End) -> Option<Refusal> {
        match end {
            End::Finished => None,
            End::Failed(refusal) => Some(refusal),
            End::Stopped(CancelReason::Shutdown) => {
                Some(Refusal::new(ErrorClass::Retry, "the gateway is shutting down"))
            }
            End::Stopped(_) => {
                let unread = Refusal::new(ErrorClass::Cancelled, "the answer was not read");
                self.client.gone.then_some(unread)
            }
        }
    }

    /// Releases the load of the prompt when the first token of an attempt arrives.
    fn release_prompt(&mut self) {
        if self.loads.iter().all(|load| load.pending.prefills == 0) {
            return;
        }
        let whole = self.loads.len() == 1;
        let fleet = &self.shared.fleet;
        for load in std::mem::take(&mut self.loads) {
            if load.pending.prefills == 0 {
                self.loads.push(load);
                continue;
            }
            fleet.release(&load);
            if let Some(rest) = load.after_prompt(whole) {
                fleet.count(&rest);
                self.loads.push(rest);
            }
        }
    }

    fn release_loads(&mut self) {
        for load in std::mem::take(&mut self.loads) {
            self.shared.fleet.release(&load);
        }
    }

    fn update_holders(&mut self) {
        let key = self.journey.key();
        if self.held != key.attempt || !self.journey.holders().eq(self.holders.iter()) {
            self.holders = self.journey.holders().cloned().collect();
            self.held = key.attempt;
            self.shared.table.set_holders(key, self.holders.clone());
        }
    }

    fn notify_started(&mut self) {
        if let Some(started) = self.client.started.take() {
            // A disconnected client shows on its other channel.
            let _ignored_if_disconnected = started.send(Ok(()));
        }
    }

    /// Delivers a token to the client. A client that disconnected, or does not read, gets nothing
    /// more: the tokens it has must stay without a gap.
    fn deliver(&mut self, mut event: TokenEvent) -> Option<Input> {
        self.last_event = SystemTime::now();
        if event.index == 0 {
            self.compare_first_token();
        }
        if let Some(opening) = &event.opening {
            self.learn_prefix(opening.cached_tokens);
        }
        if event.finish.is_some() {
            self.compare_generation(event.index);
            self.learn_answer();
        }
        self.note_stages(&mut event);
        if self.client.gone {
            return None;
        }
        self.client.gone = self.client.events.try_send(GenerationEvent::Token(event)).is_err();
        self.client.gone.then_some(Input::Stop(CancelReason::ClientGone))
    }

    fn note_stages(&self, event: &mut TokenEvent) {
        let (Some(notes), reported) = (&self.generation.stages, event.stages.take()) else {
            return;
        };
        if let Some(reported) = reported {
            let chosen = self.placement.as_ref().map(|placement| &placement.chosen().choice);
            let alone = matches!(chosen, Some(Choice::Whole { .. }));
            notes.leg(&reported, event.sent_us, alone || reported.role == Role::Decode);
        }
        if event.finish.is_some() {
            notes.generated(event.sent_us);
        }
    }

    fn place(&mut self) -> Input {
        self.release_loads();
        (self.routed, self.first_token) = (None, None);
        if let Some((attempt, _)) = self.sent {
            self.routing = SystemTime::now();
            self.trace_lost(attempt);
        }
        let generated = self.journey.output().len();
        let need = self.shared.need(&self.generation, generated, &self.hashes);
        let policy = self.shared.limits.disaggregate;
        match self.shared.fleet.place(&need, self.journey.avoid(), policy) {
            Ok((placement, loads)) => {
                self.loads = loads;
                self.shared.counters.attempts.inc();
                if self.journey.key().attempt != Attempt(0) {
                    self.shared.counters.retries.inc();
                }
                let choice = placement.chosen().choice.clone();
                self.expected_cached = Some(placement.cached_tokens);
                self.placement = Some(placement);
                Input::Placed(choice)
            }
            Err(error) => Input::Unplaceable(error.into()),
        }
    }

    /// Sends a job. The first leg of an attempt ends the route stage and begins the workers' queue
    /// stages.
    fn send(&mut self, worker: WorkerId, leg: Leg) {
        let key = self.journey.key();
        let sent = match self.sent {
            Some((attempt, sent)) if attempt == key.attempt => sent,
            _ => {
                let now = SystemTime::now();
                self.sent = Some((key.attempt, now));
                self.last_event = now;
                if let Some(notes) = &self.generation.stages {
                    notes.sent(key.attempt.0, now);
                    notes.stage(names::stage::ROUTE, self.routing..now);
                }
                if let Some(placement) = &self.placement {
                    let time = self.routing..now;
                    let routed = spans::route(&self.generation, key.attempt, placement, time);
                    self.routed = Some(routed);
                }
                now
            }
        };
        let generation = &self.generation;
        let job = Job {
            key,
            deadline_ms: epoch_ms(generation.deadline),
            sent_us: epoch_us(sent),
            gateway: self.shared.gateway.clone(),
            leg,
            prompt: generation.prompt.to_vec(),
            output: self.journey.output().to_vec(),
            sampling: generation.sampling.clone(),
            stopping: generation.stopping.clone(),
            top_logprobs: generation.top_logprobs,
            prompt_logprobs: generation.prompt_logprobs,
            scope: generation.scope,
            stages: generation.stages.is_some(),
        };
        let shared = self.shared.clone();
        let (publishing, context) = Publishing::start(&generation.trace, &worker, &job);
        self.pending.push(Box::pin(async move {
            let attempt = job.key.attempt;
            let answer = shared.bus.ask_worker(&worker, &job, &context, JOB_TIMEOUT).await;
            publishing.end(answer.as_ref());
            match answer {
                Ok(answer) => Some(Input::Answered { worker, attempt, answer }),
                Err(error) => {
                    if error.is_no_responders() {
                        shared.lose(&worker);
                    }
                    let refusal = Refusal::new(error.class(), error.to_string());
                    Some(Input::Unanswered { worker, attempt, refusal })
                }
            }
        }));
    }

    fn ask_missed(&mut self, worker: WorkerId, key: RequestKey, from: u32) {
        let (shared, context) = (self.shared.clone(), self.context());
        self.pending.push(Box::pin(async move {
            let missed = Missed { key, from };
            match shared.bus.ask_worker(&worker, &missed, &context, MISSED_TIMEOUT).await {
                Ok(reply) => Some(Input::Missed { worker, attempt: key.attempt, reply }),
                Err(error) if error.is_no_responders() => {
                    shared.lose(&worker);
                    None
                }
                // The journey requests the tokens again.
                Err(_) => None,
            }
        }));
    }

    fn cancel(&mut self, worker: WorkerId, key: RequestKey, reason: CancelReason) {
        self.shared.counters.cancels.inc();
        let (shared, context) = (self.shared.clone(), self.context());
        let trace_id = self.generation.trace.trace_id();
        self.pending.push(Box::pin(async move {
            let cancel = Cancel { key, reason };
            for _ in 0..CANCEL_TRIES {
                let asking = shared.bus.ask_worker(&worker, &cancel, &context, CANCEL_TIMEOUT);
                match asking.await {
                    Ok(_) => return None,
                    Err(error) if error.is_no_responders() => return None,
                    Err(error) => tracing::warn!(%worker, %trace_id, %error, "cancellation failed"),
                }
            }
            None
        }));
    }

    /// Returns the context that puts the workers' spans under the request's.
    fn context(&self) -> Context {
        Context::new(self.generation.trace.traceparent())
    }

    /// Records a lost attempt: the time since its last event.
    fn trace_lost(&self, attempt: Attempt) {
        let lost = self.last_event..self.routing;
        if let Some(notes) = &self.generation.stages {
            notes.lost(lost.start, lost.end);
        }
        let lost = LostAttempt {
            attempt,
            reason: self.journey.last_failure(),
            tokens: self.journey.output().len(),
            time: lost,
        };
        spans::lost(&self.generation, lost);
    }
}
