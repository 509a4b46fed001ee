//! One generation's task: performs what its journey says and tells the journey what came of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bus::Context;
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

use super::client::{Client, tell_end};
use super::spans::{self, Publishing};
use super::{Admitted, Generation, Piece, Shared, epoch_ms, epoch_us};
use crate::dispatch::fleet::Load;

mod prediction;

/// Workers answer a job within milliseconds. Presence notices one that cannot before this does.
const JOB_TIMEOUT: Duration = Duration::from_secs(4);
const MISSED_TIMEOUT: Duration = Duration::from_secs(1);
const CANCEL_TIMEOUT: Duration = Duration::from_secs(1);
/// A worker that hears of a cancellation from nobody frees the request when its lease ends.
const CANCEL_TRIES: u32 = 3;

pub(super) struct Drive {
    shared: Arc<Shared>,
    generation: Generation,
    journey: Journey,
    inbox: mpsc::Receiver<Input>,
    client: Client,
    /// Questions to workers under way.
    asked: FuturesUnordered<BoxFuture<'static, Option<Input>>>,
    /// When the route stage of this attempt began.
    routing: SystemTime,
    /// The attempt that was sent last, and when.
    sent: Option<(Attempt, SystemTime)>,
    /// When a token of it came last, or else when it was sent.
    last_sign: SystemTime,
    placement: Option<Placement>,
    /// This gateway's names of the prompt's blocks.
    names: Names,
    /// Tokens that this attempt is to find stored, until it says what it found.
    expected: Option<u32>,
    /// The route stage of this attempt, until its prediction came true.
    routed: Option<spans::Routed>,
    /// When the first token of all came, while the attempt that brought it lasts.
    first_token: Option<SystemTime>,
    /// What the table was told last.
    holders: Vec<WorkerId>,
    held: Attempt,
    last_word: Option<Refusal>,
    /// What the fleet counts for this attempt.
    loads: Vec<Load>,
}

impl Drive {
    pub(super) fn new(
        shared: Arc<Shared>,
        generation: Generation,
        admitted: Admitted,
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
            asked: FuturesUnordered::new(),
            routing: admitted.at,
            sent: None,
            last_sign: admitted.at,
            names: admitted.names,
            expected: None,
            placement: None,
            routed: None,
            first_token: None,
            holders: Vec::new(),
            held: Attempt(0),
            last_word: None,
            loads: Vec::new(),
        }
    }

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
        let pieces = std::mem::replace(&mut self.client.pieces, closed);
        let telling = tell_end(pieces, self.client.started.take(), self.last_word.take());
        tokio::join!(telling, self.free_workers());
        self.shared.counters.add(self.journey.tally());
    }

    /// Sees cancellations through, and cancels what a worker takes too late.
    async fn free_workers(&mut self) {
        while let Some(input) = self.asked.next().await {
            let Some(input) = input else { continue };
            let actions = self.journey.on(epoch_ms(SystemTime::now()), input);
            self.perform(actions.into());
        }
    }

    /// `None` when what ended has nothing to say.
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
            Some(input) = self.asked.next() => input,
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
                Action::Started => self.start(),
                Action::Deliver(event) => {
                    self.start();
                    self.prompt_computed();
                    follows = self.deliver(event);
                }
                Action::AskMissed { worker, key, from } => self.ask_missed(worker, key, from),
                Action::Cancel { worker, key, reason } => self.cancel(worker, key, reason),
                Action::End(end) => self.last_word = self.word_for(end),
            }
            if let Some(input) = follows {
                actions.extend(self.journey.on(epoch_ms(SystemTime::now()), input));
            }
        }
        self.tell_holders();
    }

    /// What the client is still to be told.
    fn word_for(&self, end: End) -> Option<Refusal> {
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

    /// The first token of an attempt is here: its prompt waits nowhere any more.
    fn prompt_computed(&mut self) {
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

    fn tell_holders(&mut self) {
        let key = self.journey.key();
        if self.held != key.attempt || !self.journey.holders().eq(self.holders.iter()) {
            self.holders = self.journey.holders().cloned().collect();
            self.held = key.attempt;
            self.shared.table.hold(key, self.holders.clone());
        }
    }

    fn start(&mut self) {
        if let Some(started) = self.client.started.take() {
            // A client that left is told by its other channel.
            let _client_is_there = started.send(Ok(()));
        }
    }

    /// Hands a piece to the client. One that is not there, or does not read, gets nothing more:
    /// what it has must stay without a gap.
    fn deliver(&mut self, mut event: TokenEvent) -> Option<Input> {
        self.last_sign = SystemTime::now();
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
        self.client.gone = self.client.pieces.try_send(Piece::Token(event)).is_err();
        self.client.gone.then_some(Input::Stop(CancelReason::ClientGone))
    }

    fn note_stages(&self, event: &mut TokenEvent) {
        let (Some(notes), told) = (&self.generation.stages, event.stages.take()) else { return };
        if let Some(told) = told {
            let chosen = self.placement.as_ref().map(|placement| &placement.chosen().choice);
            let alone = matches!(chosen, Some(Choice::Whole { .. }));
            notes.leg(&told, event.sent_us, alone || told.role == Role::Decode);
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
        let need = self.shared.need(&self.generation, generated, &self.names);
        let policy = self.shared.limits.disaggregate;
        match self.shared.fleet.place(&need, self.journey.avoid(), policy) {
            Ok((placement, loads)) => {
                self.loads = loads;
                self.shared.counters.attempts.inc();
                if self.journey.key().attempt != Attempt(0) {
                    self.shared.counters.retries.inc();
                }
                let choice = placement.chosen().choice.clone();
                self.expected = Some(placement.cached_tokens);
                self.placement = Some(placement);
                Input::Placed(choice)
            }
            Err(error) => Input::Unplaceable(error.into()),
        }
    }

    /// Sends a job. The route stage ends, and the workers' queue stages begin, when the first leg
    /// of an attempt is sent.
    fn send(&mut self, worker: WorkerId, leg: Leg) {
        let key = self.journey.key();
        let sent = match self.sent {
            Some((attempt, sent)) if attempt == key.attempt => sent,
            _ => {
                let now = SystemTime::now();
                self.sent = Some((key.attempt, now));
                self.last_sign = now;
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
        let to = (&worker, &job.leg, job.key.attempt);
        let (publishing, context) = Publishing::start(&generation.trace, to, SystemTime::now());
        self.asked.push(Box::pin(async move {
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
        self.asked.push(Box::pin(async move {
            let missed = Missed { key, from };
            match shared.bus.ask_worker(&worker, &missed, &context, MISSED_TIMEOUT).await {
                Ok(reply) => Some(Input::Missed { worker, attempt: key.attempt, reply }),
                Err(error) if error.is_no_responders() => {
                    shared.lose(&worker);
                    None
                }
                // The journey asks again.
                Err(_) => None,
            }
        }));
    }

    fn cancel(&mut self, worker: WorkerId, key: RequestKey, reason: CancelReason) {
        self.shared.counters.cancels.inc();
        let (shared, context) = (self.shared.clone(), self.context());
        let trace_id = self.generation.trace.trace_id();
        self.asked.push(Box::pin(async move {
            let cancel = Cancel { key, reason };
            for _ in 0..CANCEL_TRIES {
                let asking = shared.bus.ask_worker(&worker, &cancel, &context, CANCEL_TIMEOUT);
                match asking.await {
                    Ok(_) => return None,
                    Err(error) if error.is_no_responders() => return None,
                    Err(error) => tracing::warn!(%worker, %trace_id, %error, "not cancelled yet"),
                }
            }
            None
        }));
    }

    /// The workers' spans go under the request's.
    fn context(&self) -> Context {
        Context::new(self.generation.trace.traceparent())
    }

    /// What is lost with an attempt: the time since the last that was heard of it.
    fn trace_lost(&self, attempt: Attempt) {
        let lost = self.last_sign..self.routing;
        if let Some(notes) = &self.generation.stages {
            notes.lost(lost.start, lost.end);
        }
        let what = (self.journey.last_failure(), self.journey.output().len());
        spans::lost(&self.generation, attempt, what, lost);
    }
}
