//! One request's way through the cluster, as the gateway sees it: events in, actions out.
//!
//! Late and repeated events are ignored, and so are those of a stale attempt. Tokens are
//! delivered once, in order, without a gap, over all attempts; a leg that was asked for is in the
//! end done or cancelled; and at the deadline, at the latest, the journey ends.

use std::collections::{BTreeMap, BTreeSet};

use protocol::control::MissedReply;
use protocol::{
    Answer, Attempt, CancelReason, ErrorClass, Event, Failure, Refusal, RequestId, RequestKey,
    TokenEvent, TokenId, WorkerId,
};

pub use self::events::{Action, End, Input, JourneyLimits, Tally};
use self::legs::{LegKind, LegState, Legs};
use crate::route::Choice;

mod events;
mod legs;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Placing,
    Running,
    Ended,
}

#[derive(Clone, Copy, Debug)]
struct Repair {
    due_ms: u64,
    asked: u32,
}

/// The state machine. It owns no clock and no channel; the gateway's dispatcher and the simulation run it.
#[derive(Clone, Debug)]
pub struct Journey {
    limits: JourneyLimits,
    request: RequestId,
    deadline_ms: u64,
    phase: Phase,
    attempt: Attempt,
    legs: Legs,
    avoid: BTreeSet<WorkerId>,
    output: Vec<TokenId>,
    /// Index of the first token of this attempt, which comes from the leg that has the prompt.
    base: u32,
    /// Index of the next event to deliver.
    next: u32,
    held: BTreeMap<u32, TokenEvent>,
    repair: Option<Repair>,
    started: bool,
    /// Reason for the end of the attempt before this one.
    last: Option<Refusal>,
    tally: Tally,
}

impl Journey {
    /// Returns a journey at its beginning, and its first action.
    pub fn new(request: RequestId, deadline_ms: u64, limits: JourneyLimits) -> (Self, Action) {
        let journey = Self {
            limits,
            request,
            deadline_ms,
            phase: Phase::Placing,
            attempt: Attempt(0),
            legs: Legs::default(),
            avoid: BTreeSet::new(),
            output: Vec::new(),
            base: 0,
            next: 0,
            held: BTreeMap::new(),
            repair: None,
            started: false,
            last: None,
            tally: Tally::default(),
        };
        (journey, Action::Place)
    }

    /// Returns the request and its current attempt.
    pub fn key(&self) -> RequestKey {
        RequestKey { request: self.request, attempt: self.attempt }
    }

    /// Returns the workers that failed this request.
    pub fn avoid(&self) -> &BTreeSet<WorkerId> {
        &self.avoid
    }

    /// Returns why the attempt before this one ended; `None` in the first.
    pub fn last_failure(&self) -> Option<&Refusal> {
        self.last.as_ref()
    }

    /// Returns every token delivered so far.
    pub fn output(&self) -> &[TokenId] {
        &self.output
    }

    /// Returns the workers whose lease for the current attempt is to be renewed.
    pub fn holders(&self) -> impl Iterator<Item = &WorkerId> {
        self.legs.in_state(LegState::Taken)
    }

    /// Returns whether nothing follows.
    pub fn ended(&self) -> bool {
        self.phase == Phase::Ended
    }

    /// Returns the counts of unusual events.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Returns the time at which [`Input::Tick`] is due next.
    pub fn wake_ms(&self) -> u64 {
        self.repair.map_or(self.deadline_ms, |repair| repair.due_ms.min(self.deadline_ms))
    }

    /// Takes one input and returns the actions that follow from it.
    pub fn on(&mut self, now_ms: u64, input: Input) -> Vec<Action> {
        let mut actions = Vec::new();
        match input {
            // A worker that accepted too late must still free what it holds.
            Input::Answered { worker, attempt, answer: Answer::Accepted }
                if self.ended() || attempt < self.attempt =>
            {
                let key = RequestKey { request: self.request, attempt };
                let reason = CancelReason::Superseded;
                actions.push(Action::Cancel { worker, key, reason });
            }
            Input::Event { .. } if self.ended() => self.tally.fenced += 1,
            _ if self.ended() => {}
            _ if self.deadline_ms <= now_ms => self.expire(&mut actions),
            Input::Placed(choice) => self.placed(choice, &mut actions),
            Input::Unplaceable(refusal) => self.unplaceable(refusal, &mut actions),
            Input::Answered { worker, attempt, answer } if attempt == self.attempt => {
                self.answered(worker, answer, &mut actions);
            }
            Input::Unanswered { worker, attempt, refusal }
                if attempt == self.attempt && self.legs.state(&worker) == Some(LegState::Asked) =>
            {
                self.fail(Some(worker), refusal, &mut actions);
            }
            Input::Event { worker, event } => self.event(now_ms, &worker, event, &mut actions),
            Input::Gone { worker } => self.gone(worker, &mut actions),
            Input::Unknown { worker, key } if key == self.key() => {
                self.unknown(now_ms, &worker, &mut actions);
            }
            Input::Missed { worker, attempt, reply } if attempt == self.attempt => {
                self.missed(now_ms, worker, reply, &mut actions);
            }
            Input::Tick => self.tick(now_ms, &mut actions),
            Input::Stop(reason) => {
                self.cancel_legs(reason, &mut actions);
                self.end(End::Stopped(reason), &mut actions);
            }
            _ => {}
        }
        actions
    }

    fn placed(&mut self, choice: Choice, actions: &mut Vec<Action>) {
        if self.phase != Phase::Placing {
            return;
        }
        self.phase = Phase::Running;
        self.legs = Legs::of(&choice);
        let sends = self.legs.jobs().map(|(worker, leg)| Action::Send { worker, leg });
        actions.extend(sends);
    }

    fn unplaceable(&mut self, refusal: Refusal, actions: &mut Vec<Action>) {
        if self.phase != Phase::Placing {
            return;
        }
        let refusal = match self.last.take() {
            Some(last) => {
                Refusal::new(last.class, format!("{}; {}", last.message, refusal.message))
            }
            None => refusal,
        };
        self.end(End::Failed(refusal), actions);
    }

    fn answered(&mut self, worker: WorkerId, answer: Answer, actions: &mut Vec<Action>) {
        if self.legs.state(&worker) != Some(LegState::Asked) {
            return;
        }
        match answer {
            Answer::Accepted => self.take(&worker, actions),
            Answer::Refused(refusal) => {
                self.legs.set(&worker, LegState::Done);
                self.fail(Some(worker), refusal, actions);
            }
        }
    }

    fn take(&mut self, worker: &WorkerId, actions: &mut Vec<Action>) {
        self.legs.set(worker, LegState::Taken);
        if !self.started && self.legs.all_taken() {
            self.started = true;
            actions.push(Action::Started);
        }
    }

    fn event(&mut self, now_ms: u64, worker: &WorkerId, event: Event, actions: &mut Vec<Action>) {
        let current = self.phase == Phase::Running && event.key() == self.key();
        let Some(kind) = self.legs.kind(worker).filter(|_| current) else {
            self.tally.fenced += 1;
            return;
        };
        match event {
            Event::Token(event) if event.token.is_some() || event.finish.is_some() => {
                self.token(now_ms, worker, kind, event, actions);
            }
            Event::Token(_) => self.tally.fenced += 1,
            Event::Failed(Failure { refusal, .. }) => {
                self.legs.set(worker, LegState::Done);
                self.fail(Some(worker.clone()), refusal, actions);
            }
        }
    }

    fn token(
        &mut self,
        now_ms: u64,
        worker: &WorkerId,
        kind: LegKind,
        event: TokenEvent,
        actions: &mut Vec<Action>,
    ) {
        if self.legs.state(worker) == Some(LegState::Asked) {
            self.take(worker, actions);
        }
        if kind == LegKind::Decode && self.base < event.index {
            self.legs.finish_prefill();
        }
        if event.finish.is_some() {
            self.legs.set(worker, LegState::Done);
        }
        if event.index < self.next || self.held.contains_key(&event.index) {
            self.tally.repeated += 1;
            return;
        }
        if event.index == self.next {
            self.deliver(event, actions);
        } else if self.held.len() < self.limits.held_max {
            self.held.insert(event.index, event);
        }
        self.watch_gap(now_ms);
    }

    /// Delivers `event`, the next one, and whatever it was holding up.
    fn deliver(&mut self, event: TokenEvent, actions: &mut Vec<Action>) {
        let mut event = event;
        loop {
            // Later attempts open again: the client has that already.
            if self.next > 0 {
                event.opening = None;
            }
            self.next += 1;
            self.output.extend(event.token);
            let last = event.finish.is_some();
            self.started = true;
            actions.push(Action::Deliver(event));
            if last {
                self.cancel_legs(CancelReason::Superseded, actions);
                return self.end(End::Finished, actions);
            }
            match self.held.remove(&self.next) {
                Some(held) => event = held,
                None => return,
            }
        }
    }

    fn watch_gap(&mut self, now_ms: u64) {
        if self.held.is_empty() {
            self.repair = None;
        } else if self.repair.is_none() {
            self.repair = Some(Repair { due_ms: now_ms + self.limits.gap_ms, asked: 0 });
        }
    }

    fn gone(&mut self, worker: WorkerId, actions: &mut Vec<Action>) {
        let owes = self.legs.kind(&worker).is_some_and(|kind| {
            self.legs.state(&worker) != Some(LegState::Done) || self.owed_by(kind)
        });
        if self.phase == Phase::Running && owes {
            let refusal = Refusal::new(ErrorClass::Retry, format!("worker {worker} is gone"));
            self.legs.set(&worker, LegState::Done);
            self.fail(Some(worker), refusal, actions);
        }
    }

    /// Returns whether the next event comes from the leg of this kind.
    fn owed_by(&self, kind: LegKind) -> bool {
        match kind {
            LegKind::Whole => true,
            LegKind::Prefill => self.next == self.base,
            LegKind::Decode => self.base < self.next,
        }
    }

    fn unknown(&mut self, now_ms: u64, worker: &WorkerId, actions: &mut Vec<Action>) {
        let Some(kind) = self.legs.kind(worker) else { return };
        if self.legs.state(worker) != Some(LegState::Taken) {
            return;
        }
        if kind == LegKind::Prefill && self.base < self.next {
            self.legs.set(worker, LegState::Done);
            return;
        }
        self.ask_missed(now_ms, worker.clone(), actions);
    }

    fn ask_missed(&mut self, now_ms: u64, worker: WorkerId, actions: &mut Vec<Action>) {
        let asked = self.repair.map_or(0, |repair| repair.asked) + 1;
        if self.limits.missed_max < asked {
            let message = format!("worker {worker} lost token {}", self.next);
            return self.fail(Some(worker), Refusal::new(ErrorClass::Retry, message), actions);
        }
        if asked == 1 {
            self.tally.gaps += 1;
        }
        self.repair = Some(Repair { due_ms: now_ms + self.limits.missed_ms, asked });
        actions.push(Action::AskMissed { worker, key: self.key(), from: self.next });
    }

    fn missed(
        &mut self,
        now_ms: u64,
        worker: WorkerId,
        reply: MissedReply,
        actions: &mut Vec<Action>,
    ) {
        let attempt = self.attempt;
        for event in reply.events {
            if !self.ended() && self.attempt == attempt {
                self.event(now_ms, &worker, event, actions);
            }
        }
        if self.phase != Phase::Running || self.attempt != attempt || reply.known {
            return;
        }
        let Some(kind) = self.legs.kind(&worker) else { return };
        let done = self.legs.state(&worker) == Some(LegState::Done);
        if self.owed_by(kind) || (kind == LegKind::Decode && !done) {
            let message = format!("worker {worker} forgot the request");
            self.fail(Some(worker), Refusal::new(ErrorClass::Retry, message), actions);
        }
    }

    fn tick(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        if self.phase != Phase::Running || self.repair.is_none_or(|repair| now_ms < repair.due_ms) {
            return;
        }
        let from = [LegKind::Whole, LegKind::Prefill, LegKind::Decode];
        let owing = from.into_iter().filter(|kind| self.owed_by(*kind));
        match owing.filter_map(|kind| self.legs.worker(kind)).next().cloned() {
            Some(worker) => self.ask_missed(now_ms, worker, actions),
            None => self.repair = None,
        }
    }

    fn expire(&mut self, actions: &mut Vec<Action>) {
        self.cancel_legs(CancelReason::Deadline, actions);
        let message = format!("the deadline passed after {} tokens", self.output.len());
        self.end(End::Failed(Refusal::new(ErrorClass::Deadline, message)), actions);
    }

    /// Ends this attempt as failed: places the request elsewhere, or ends the journey.
    fn fail(&mut self, culprit: Option<WorkerId>, refusal: Refusal, actions: &mut Vec<Action>) {
        self.cancel_legs(CancelReason::Superseded, actions);
        let hopeless = matches!(refusal.class, ErrorClass::Invalid | ErrorClass::Deadline);
        if hopeless || self.limits.attempts_max <= self.attempt.0 + 1 {
            return self.end(End::Failed(refusal), actions);
        }
        self.avoid.extend(culprit);
        self.last = Some(refusal);
        self.attempt.0 += 1;
        self.base = self.next;
        self.legs = Legs::default();
        self.held.clear();
        self.repair = None;
        self.phase = Phase::Placing;
        actions.push(Action::Place);
    }

    fn cancel_legs(&mut self, reason: CancelReason, actions: &mut Vec<Action>) {
        let key = self.key();
        let holders = self.legs.give_up().into_iter();
        actions.extend(holders.map(|worker| Action::Cancel { worker, key, reason }));
    }

    fn end(&mut self, end: End, actions: &mut Vec<Action>) {
        self.phase = Phase::Ended;
        self.repair = None;
        self.held.clear();
        actions.push(Action::End(end));
    }
}
