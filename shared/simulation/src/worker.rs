//! A worker: the real planner and pool, driven as the engine drives them, without a model.

use std::collections::{BTreeMap, BTreeSet};

use protocol::control::MissedReply;
use protocol::{
    Answer, Attempt, BlockHash, Cancel, ErrorClass, Event, Failure, Job, KeepReply, Leg, Opening,
    PoolState, PromptDone, Refusal, RequestId, RequestKey, Role, TokenEvent, WorkerId, WorkerState,
};
use scheduling::planner::{Limits, Logits, Outcome, Planner, Row};
use scheduling::sequence::{NewSequence, Part};
use scheduling::speed::{SpeedFit, StepWork};

use crate::fabric::Fabric;
use crate::message::{Envelope, ToGateway, ToWorker, WorkerTimer};
use crate::model::{self, Costs};
use crate::random::Random;

mod handover;

const SECOND_US: u64 = 1_000_000;
const LEASE_MS: u64 = 5_000;

/// Bounds of every simulated worker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WorkerLimits {
    pub(crate) pages: u32,
    pub(crate) sequences_max: usize,
    pub(crate) queue_max: usize,
    pub(crate) context_tokens: usize,
    pub(crate) costs: Costs,
}

const STEP_TOKENS: usize = 64;

/// One leg that this worker took.
struct Taken {
    leg: Leg,
    fetch: Option<Fetch>,
    /// Every block sent towards the store.
    put: Vec<BlockHash>,
    /// On decode, the report of prefill; on prefill, the report for decode.
    done: Option<PromptDone>,
    reported: bool,
}

struct Fetch {
    first_block: usize,
    missing: Vec<BlockHash>,
    awaited: bool,
    arrived: BTreeSet<BlockHash>,
}

/// A step under way.
struct Step {
    rows: Vec<Row>,
    work: StepWork,
    takes_us: u64,
}

/// One process.
pub(crate) struct Worker {
    pub(crate) id: WorkerId,
    pub(crate) role: Role,
    pub(crate) life: u64,
    limits: WorkerLimits,
    planner: Planner,
    stepping: Option<Step>,
    speed: SpeedFit,
    chance: Random,
    taken: BTreeMap<RequestKey, Taken>,
    answers: BTreeMap<RequestKey, Answer>,
    /// The newest attempt of a request that was given up.
    given_up: BTreeMap<RequestId, Attempt>,
    remembered: BTreeMap<RequestKey, Vec<Event>>,
    /// Reports of prefill that came before their job.
    early: BTreeMap<RequestKey, PromptDone>,
}

impl Worker {
    pub(crate) fn start(id: WorkerId, role: Role, life: u64, limits: WorkerLimits) -> Self {
        let prefill_share = if role == Role::Prefill { 1.0 } else { 0.0 };
        let planned = Limits {
            context_tokens: limits.context_tokens,
            step_tokens: STEP_TOKENS,
            prefill_share,
            sequences_max: limits.sequences_max,
            queue_max: limits.queue_max,
            lease_ms: LEASE_MS,
        };
        Self {
            id,
            role,
            life,
            limits,
            planner: Planner::new(planned, model::fingerprint(), limits.pages),
            stepping: None,
            speed: SpeedFit::default(),
            chance: Random::new(life, 3),
            taken: BTreeMap::new(),
            answers: BTreeMap::new(),
            given_up: BTreeMap::new(),
            remembered: BTreeMap::new(),
            early: BTreeMap::new(),
        }
    }

    pub(crate) fn pool(&self) -> PoolState {
        self.planner.pool_state()
    }

    pub(crate) fn preempted(&self) -> u64 {
        self.planner.load().preempted
    }

    pub(crate) fn receive(&mut self, message: ToWorker, fabric: &mut Fabric) {
        match message {
            ToWorker::Job(job) => self.job(*job, fabric),
            ToWorker::Cancel(cancel) => self.cancel(&cancel, fabric),
            ToWorker::Keep(keep) => {
                let now_ms = fabric.queue.now_ms();
                let mut unknown = keep.keys;
                unknown
                    .retain(|key| !self.planner.keep(key, now_ms) && !self.taken.contains_key(key));
                self.tell(ToGateway::Kept(KeepReply { unknown }), fabric);
            }
            ToWorker::Missed(missed) => {
                let events = self.remembered.get(&missed.key);
                let known = events.is_some() || self.taken.contains_key(&missed.key);
                let events = events.into_iter().flatten().filter(|event| match event {
                    Event::Token(token) => token.index >= missed.from,
                    Event::Failed(_) => true,
                });
                let events = events.cloned().collect();
                let reply = MissedReply { events, known };
                self.tell(ToGateway::MissedReply(missed.key, reply), fabric);
            }
            ToWorker::PromptDone { from, done } => {
                fabric.send(Envelope::ToWorker(from, ToWorker::PromptDoneTaken(done.key)));
                self.prompt_done(done);
            }
            ToWorker::PutDone(key, blocks) => self.put_done(key, blocks, fabric),
            ToWorker::Stored { key, blocks } => self.stored(key, &blocks),
            ToWorker::Found { key, stored } => self.found(key, stored),
            ToWorker::PromptDoneTaken(key) => {
                if self.taken.get(&key).is_some_and(|taken| taken.reported) {
                    self.taken.remove(&key);
                }
            }
        }
        self.go_on(fabric);
    }

    pub(crate) fn timer(&mut self, timer: WorkerTimer, fabric: &mut Fabric) {
        match timer {
            WorkerTimer::StepDone => self.step_done(fabric),
            WorkerTimer::Second => self.second(fabric),
            WorkerTimer::PutAgain(key, tries) => self.put(key, tries, fabric),
            WorkerTimer::PromptDoneAgain(key, tries) => self.tell_decode(key, tries, fabric),
            WorkerTimer::LookupAgain(key, tries) | WorkerTimer::PullAgain(key, tries) => {
                self.ask_store(key, tries, fabric);
            }
        }
        self.go_on(fabric);
    }

    fn tell(&self, message: ToGateway, fabric: &mut Fabric) {
        fabric.send(Envelope::ToGateway(self.id.clone(), message));
    }

    fn later(&self, after_us: u64, timer: WorkerTimer, fabric: &mut Fabric) {
        let (worker, life) = (self.id.clone(), self.life);
        fabric.timer(after_us, Envelope::WorkerTimer { worker, life, timer });
    }

    fn job(&mut self, job: Job, fabric: &mut Fabric) {
        let key = job.key;
        let given_up = self.given_up.get(&key.request);
        let answer = if let Some(answer) = self.answers.get(&key) {
            answer.clone()
        } else if given_up.is_some_and(|attempt| key.attempt <= *attempt) {
            Answer::Refused(Refusal::new(ErrorClass::Cancelled, "given up before it came"))
        } else {
            match self.take(job, fabric.queue.now_ms()) {
                Ok(()) => Answer::Accepted,
                Err(refusal) => Answer::Refused(refusal),
            }
        };
        self.answers.insert(key, answer.clone());
        self.tell(ToGateway::Answer(key, answer), fabric);
    }

    fn take(&mut self, job: Job, now_ms: u64) -> Result<(), Refusal> {
        job.check()?;
        let key = job.key;
        self.give_up_before(key);
        let part = match job.leg {
            Leg::Prefill { .. } => Part::Prefill,
            Leg::Decode { .. } => Part::Decode,
            Leg::Whole => Part::Whole,
        };
        let new = NewSequence {
            key,
            part,
            prompt: job.prompt,
            output: job.output,
            stopping: job.stopping,
            scope: job.scope,
            score_prompt: false,
            deadline_ms: job.deadline_ms,
        };
        self.planner.submit(new, now_ms)?;
        let done = self.early.remove(&key).filter(|_| part == Part::Decode);
        let taken = Taken { leg: job.leg, fetch: None, put: Vec::new(), done, reported: false };
        self.taken.insert(key, taken);
        Ok(())
    }

    /// A newer attempt ends the older ones.
    fn give_up_before(&mut self, key: RequestKey) {
        if let Some(attempt) = key.attempt.0.checked_sub(1) {
            self.give_up(RequestKey { request: key.request, attempt: Attempt(attempt) });
        }
    }

    fn give_up(&mut self, upto: RequestKey) {
        let newest = self.given_up.entry(upto.request).or_insert(upto.attempt);
        *newest = upto.attempt.max(*newest);
        let first = RequestKey { attempt: Attempt(0), ..upto };
        let keys: Vec<_> = self.taken.range(first..=upto).map(|(key, _)| *key).collect();
        for key in keys {
            self.planner.retire(&key);
            self.taken.remove(&key);
        }
    }

    fn cancel(&mut self, cancel: &Cancel, fabric: &mut Fabric) {
        self.give_up(cancel.key);
        self.tell(ToGateway::Cancelled(cancel.key), fabric);
    }

    /// Gives pages to whoever waits and starts the next step.
    fn go_on(&mut self, fabric: &mut Fabric) {
        for admitted in self.planner.admit() {
            let key = admitted.key;
            let Some(taken) = self.taken.get_mut(&key) else { continue };
            taken.fetch = Some(Fetch {
                first_block: admitted.first_block,
                missing: admitted.missing,
                awaited: admitted.awaited,
                arrived: BTreeSet::new(),
            });
            self.ask_store(key, 0, fabric);
        }
        if self.stepping.is_none() {
            let rows = self.planner.plan();
            if !rows.is_empty() {
                let work = model::work(&rows);
                let takes_us = self.limits.costs.us(&work, self.chance.unit());
                self.later(takes_us, WorkerTimer::StepDone, fabric);
                self.stepping = Some(Step { rows, work, takes_us });
            }
        }
    }

    fn step_done(&mut self, fabric: &mut Fabric) {
        let Some(step) = self.stepping.take() else { return };
        self.speed.observe(&step.work, step.takes_us as f64);
        let mut events = Vec::new();
        for row in step.rows {
            let Some(sequence) = self.planner.sequence(&row.key) else { continue };
            let chooses = row.logits == Logits::Last && !sequence.wants_no_token();
            let token = chooses.then(|| model::next_token(&sequence.tokens));
            let cached = sequence.local_tokens + sequence.stored_tokens;
            let Some(outcome) = self.planner.commit(&row, token) else { continue };
            let opening = Opening {
                cached_tokens: cached as u32,
                stored_tokens: 0,
                prompt_logprobs: Vec::new(),
            };
            if outcome.index.is_some() || outcome.finish.is_some() {
                events.push(Event::Token(TokenEvent {
                    key: row.key,
                    index: outcome.index.unwrap_or_default(),
                    token,
                    logprob: None,
                    finish: outcome.finish,
                    opening: Some(Box::new(opening)),
                    sent_us: fabric.queue.now_us(),
                    stages: None,
                }));
            }
            self.commit(row.key, token, outcome, fabric);
        }
        self.send_events(events, fabric);
    }

    fn commit(
        &mut self,
        key: RequestKey,
        token: Option<u32>,
        outcome: Outcome,
        fabric: &mut Fabric,
    ) {
        let Some(taken) = self.taken.get_mut(&key) else { return };
        let before = taken.put.len();
        taken.put.extend(outcome.sealed.iter().map(|(_, name, _)| *name));
        taken.put.extend(outcome.tail.map(|(name, ..)| name));
        let prefill = matches!(taken.leg, Leg::Prefill { .. });
        if outcome.done && prefill {
            taken.done = Some(PromptDone {
                key,
                prefill: self.id.clone(),
                first_token: token,
                finished: outcome.finish.is_some(),
                unstored: Vec::new(),
            });
        }
        if before < taken.put.len() || (outcome.done && prefill) {
            self.put(key, 0, fabric);
        }
        if outcome.done {
            self.planner.retire(&key);
            if !prefill {
                self.taken.remove(&key);
            }
        }
    }

    fn send_events(&mut self, events: Vec<Event>, fabric: &mut Fabric) {
        if events.is_empty() {
            return;
        }
        for event in &events {
            self.remembered.entry(event.key()).or_default().push(event.clone());
        }
        self.tell(ToGateway::Tokens(events), fabric);
    }

    /// Reports its state to the gateway, and frees what has expired.
    fn second(&mut self, fabric: &mut Fabric) {
        let expired = self.planner.expire(fabric.queue.now_ms());
        for gone in &expired {
            self.taken.remove(&gone.key);
        }
        let failures = expired
            .into_iter()
            .map(|expired| Event::Failed(Failure { key: expired.key, refusal: expired.refusal }));
        self.send_events(failures.collect(), fabric);
        self.tell(ToGateway::Presence(Box::new(self.state())), fabric);
        self.later(SECOND_US, WorkerTimer::Second, fabric);
    }

    fn state(&self) -> WorkerState {
        let load = self.planner.load();
        WorkerState {
            worker: self.id.clone(),
            role: self.role,
            prefill_share: if self.role == Role::Prefill { 1.0 } else { 0.0 },
            step_tokens: STEP_TOKENS as u32,
            epoch: self.life,
            ready: true,
            draining: false,
            model: "simulated".to_owned(),
            files: model::files(),
            fingerprint: model::fingerprint(),
            context_tokens: self.limits.context_tokens as u32,
            device: "none".to_owned(),
            queued_sequences: load.queued_sequences,
            queued_tokens: load.queued_tokens,
            queued_pairs: load.queued_pairs,
            running_sequences: load.running_sequences,
            running_tokens: load.running_tokens,
            sequences_max: self.limits.sequences_max as u32,
            pool: self.pool(),
            speed: self.speed.speed(),
            health_address: String::new(),
        }
    }
}
