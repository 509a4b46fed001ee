//! The gateway: real admission, routing and journeys, fed by simulated messages.

use std::collections::{BTreeMap, BTreeSet};

use protocol::control::MissedReply;
use protocol::{
    Cancel, CancelReason, ErrorClass, GatewayId, Job, Keep, Leg, Missed, Refusal, RequestId,
    RequestKey, Sampling, Scope, TokenEvent, TokenId, WorkerId,
};
use scheduling::admission::{AdmissionLimits, Moment, admit};
use scheduling::journey::{Action, End, Input, Journey, JourneyLimits};
use scheduling::route::{Candidate, Disaggregate, Names, Need, Prefixes, place};

use self::fleet::{Fleet, Load};
use crate::end::{Outcome, Prediction};
use crate::fabric::Fabric;
use crate::load::Ask;
use crate::message::{Envelope, GatewayTimer, ToGateway, ToWorker};

mod fleet;

const SECOND_US: u64 = 1_000_000;
const PRESENCE_MS: u64 = 3_000;
const JOB_TIMEOUT_US: u64 = 2_000_000;
const CANCEL_AGAIN_US: u64 = 1_000_000;
const CANCEL_TRIES: u32 = 3;
const LIMITS: AdmissionLimits = AdmissionLimits { inflight_max: 256, queue_sequences_max: 64 };

/// A request; they are numbered in the order of arrival.
struct Flight {
    journey: Journey,
    ask: Ask,
    delivered: Vec<TokenId>,
    outcome: Outcome,
    /// Time that its timer is set for.
    wake_ms: Option<u64>,
    /// Work that workers have for its attempt.
    loads: Vec<Load>,
    /// Microsecond of its placement, and the predicted milliseconds.
    placed: Option<(u64, f32)>,
    /// Tokens that its attempt is to find stored, until it reports those found.
    expected: Option<u32>,
}

pub(crate) struct Gateway {
    id: GatewayId,
    policy: Disaggregate,
    flights: BTreeMap<RequestId, Flight>,
    fleet: Fleet,
    prefixes: Prefixes,
    uncancelled: BTreeSet<(WorkerId, RequestKey)>,
    pub(crate) retries: u64,
    pub(crate) predictions: Vec<Prediction>,
    pub(crate) log: Vec<String>,
}

impl Gateway {
    pub(crate) fn new(policy: Disaggregate) -> Self {
        Self {
            id: "gateway".parse().expect("a plain name"),
            policy,
            flights: BTreeMap::new(),
            fleet: Fleet::default(),
            prefixes: Prefixes::new(65_536),
            predictions: Vec::new(),
            uncancelled: BTreeSet::new(),
            retries: 0,
            log: Vec::new(),
        }
    }

    pub(crate) fn busy(&self) -> bool {
        self.flights.values().any(|flight| flight.outcome == Outcome::Open)
    }

    /// Returns the outcome of each request, with its tokens.
    pub(crate) fn results(&self) -> impl Iterator<Item = (&Outcome, &Ask, &[TokenId])> {
        self.flights.values().map(|flight| (&flight.outcome, &flight.ask, &flight.delivered[..]))
    }

    pub(crate) fn arrive(&mut self, number: usize, ask: Ask, fabric: &mut Fabric) {
        let request = RequestId(number as u128);
        let views = self.fleet.views();
        let inflight = self.flights.values().filter(|f| f.outcome == Outcome::Open).count();
        let need = need(&ask, 0, &self.prefixes);
        let moment = Moment { now_ms: fabric.queue.now_ms(), left_ms: ask.deadline_ms };
        let admitted = admit(&need, &views, inflight, moment, &LIMITS);
        let deadline_ms = fabric.queue.now_ms() + ask.deadline_ms;
        let (journey, first) = Journey::new(request, deadline_ms, JourneyLimits::default());
        let outcome = match &admitted {
            Ok(()) => Outcome::Open,
            Err(error) => Outcome::Refused(error.class()),
        };
        let ask = Ask { deadline_ms, ..ask };
        let (delivered, loads) = (Vec::new(), Vec::new());
        let flight = Flight {
            journey,
            ask,
            delivered,
            outcome,
            wake_ms: None,
            loads,
            placed: None,
            expected: None,
        };
        self.flights.insert(request, flight);
        match admitted {
            Ok(()) => self.perform(request, vec![first], fabric),
            Err(error) => self.log.push(format!("{} {request} {error}", fabric.queue.now_us())),
        }
    }

    pub(crate) fn receive(&mut self, worker: WorkerId, message: ToGateway, fabric: &mut Fabric) {
        match message {
            ToGateway::Answer(key, answer) => {
                let input = Input::Answered { worker, attempt: key.attempt, answer };
                self.tell(key.request, input, fabric);
            }
            ToGateway::Tokens(events) => {
                for event in events {
                    let worker = worker.clone();
                    self.tell(event.key().request, Input::Event { worker, event }, fabric);
                }
            }
            ToGateway::Kept(reply) => {
                for key in reply.unknown {
                    let worker = worker.clone();
                    self.tell(key.request, Input::Unknown { worker, key }, fabric);
                }
            }
            ToGateway::MissedReply(key, reply) => self.missed(worker, key, reply, fabric),
            ToGateway::Cancelled(key) => {
                self.uncancelled.remove(&(worker, key));
            }
            ToGateway::Presence(state) => {
                let epoch = state.epoch;
                match self.fleet.epoch(&worker) {
                    Some(newer) if epoch < newer => return,
                    Some(older) if older < epoch => self.lose(&worker, fabric),
                    _ => {}
                }
                self.fleet.report(&state, fabric.queue.now_ms());
            }
            ToGateway::NoResponders => self.lose(&worker, fabric),
        }
    }

    pub(crate) fn timer(&mut self, timer: GatewayTimer, fabric: &mut Fabric) {
        match timer {
            GatewayTimer::Second => self.second(fabric),
            GatewayTimer::Wake(request) => {
                if let Some(flight) = self.flights.get_mut(&request) {
                    flight.wake_ms = None;
                }
                self.tell(request, Input::Tick, fabric);
            }
            GatewayTimer::JobLate(worker, key) => {
                let refusal = Refusal::new(ErrorClass::Retry, format!("no answer from {worker}"));
                let input = Input::Unanswered { worker, attempt: key.attempt, refusal };
                self.tell(key.request, input, fabric);
            }
            GatewayTimer::CancelAgain(worker, cancel, tries) => {
                if self.uncancelled.contains(&(worker.clone(), cancel.key)) {
                    self.cancel(worker, cancel, tries, fabric);
                }
            }
        }
    }

    fn missed(
        &mut self,
        worker: WorkerId,
        key: RequestKey,
        reply: MissedReply,
        fabric: &mut Fabric,
    ) {
        let input = Input::Missed { worker, attempt: key.attempt, reply };
        self.tell(key.request, input, fabric);
    }

    fn second(&mut self, fabric: &mut Fabric) {
        let now_ms = fabric.queue.now_ms();
        for worker in self.fleet.silent(now_ms.saturating_sub(PRESENCE_MS)) {
            self.lose(&worker, fabric);
        }
        let mut keys: BTreeMap<WorkerId, Vec<RequestKey>> = BTreeMap::new();
        for flight in self.flights.values() {
            for worker in flight.journey.holders() {
                keys.entry(worker.clone()).or_default().push(flight.journey.key());
            }
        }
        for (worker, keys) in keys {
            fabric.send(Envelope::ToWorker(worker, ToWorker::Keep(Keep { keys })));
        }
        fabric.timer(SECOND_US, Envelope::GatewayTimer(GatewayTimer::Second));
    }

    fn lose(&mut self, worker: &WorkerId, fabric: &mut Fabric) {
        self.fleet.forget(worker);
        self.uncancelled.retain(|(other, _)| other != worker);
        let requests: Vec<_> = self.flights.keys().copied().collect();
        for request in requests {
            self.tell(request, Input::Gone { worker: worker.clone() }, fabric);
        }
    }

    fn tell(&mut self, request: RequestId, input: Input, fabric: &mut Fabric) {
        let Some(flight) = self.flights.get_mut(&request) else { return };
        let actions = flight.journey.on(fabric.queue.now_ms(), input);
        self.perform(request, actions, fabric);
    }

    fn perform(&mut self, request: RequestId, actions: Vec<Action>, fabric: &mut Fabric) {
        for action in actions {
            self.log.push(format!("{} {request} {action:?}", fabric.queue.now_us()));
            match action {
                Action::Place => self.place(request, fabric),
                Action::Send { worker, leg } => self.send(request, worker, leg, fabric),
                Action::Started => {}
                Action::Deliver(event) => self.deliver(request, event, fabric),
                Action::AskMissed { worker, key, from } => {
                    let message = ToWorker::Missed(Missed { key, from });
                    fabric.send(Envelope::ToWorker(worker, message));
                }
                Action::Cancel { worker, key, reason } => {
                    self.uncancelled.insert((worker.clone(), key));
                    self.cancel(worker, Cancel { key, reason }, 0, fabric);
                }
                Action::End(end) => self.end(request, end, fabric),
            }
        }
        self.wake(request, fabric);
    }

    fn wake(&mut self, request: RequestId, fabric: &mut Fabric) {
        let Some(flight) = self.flights.get_mut(&request) else { return };
        let wake_ms = flight.journey.wake_ms();
        if flight.journey.ended() || flight.wake_ms.is_some_and(|at_ms| at_ms <= wake_ms) {
            return;
        }
        flight.wake_ms = Some(wake_ms);
        let after_us = (wake_ms * 1_000).saturating_sub(fabric.queue.now_us());
        fabric.timer(after_us, Envelope::GatewayTimer(GatewayTimer::Wake(request)));
    }

    fn place(&mut self, request: RequestId, fabric: &mut Fabric) {
        let now_ms = fabric.queue.now_ms();
        let Some(flight) = self.flights.get_mut(&request) else { return };
        self.fleet.done(std::mem::take(&mut flight.loads), now_ms);
        let generated = flight.delivered.len();
        let need = need(&flight.ask, generated, &self.prefixes);
        flight.expected = Some(need.cached_tokens);
        self.retries += u64::from(flight.journey.key().attempt.0 > 0);
        let views = self.fleet.views();
        let input = match place(&need, &views, flight.journey.avoid(), self.policy, now_ms) {
            Ok(placement) => {
                let Candidate { choice, price } = placement.chosen().clone();
                flight.loads = self.fleet.send(&choice, &need, now_ms);
                flight.placed = Some((fabric.queue.now_us(), price.ttft_ms()));
                Input::Placed(choice)
            }
            Err(error) => Input::Unplaceable(error.into()),
        };
        self.tell(request, input, fabric);
    }

    fn send(&mut self, request: RequestId, worker: WorkerId, leg: Leg, fabric: &mut Fabric) {
        let Some(flight) = self.flights.get(&request) else { return };
        let key = flight.journey.key();
        let job = Job {
            key,
            deadline_ms: flight.ask.deadline_ms,
            sent_us: fabric.queue.now_us(),
            gateway: self.id.clone(),
            leg,
            prompt: flight.ask.prompt.clone(),
            output: flight.journey.output().to_vec(),
            sampling: Sampling::default(),
            stopping: flight.ask.stopping.clone(),
            top_logprobs: None,
            prompt_logprobs: None,
            scope: Scope::shared(),
            stages: false,
        };
        fabric.send(Envelope::ToWorker(worker.clone(), ToWorker::Job(Box::new(job))));
        let late = GatewayTimer::JobLate(worker, key);
        fabric.timer(JOB_TIMEOUT_US, Envelope::GatewayTimer(late));
    }

    fn cancel(&mut self, worker: WorkerId, cancel: Cancel, tries: u32, fabric: &mut Fabric) {
        fabric.send(Envelope::ToWorker(worker.clone(), ToWorker::Cancel(cancel.clone())));
        if tries + 1 < CANCEL_TRIES {
            let again = GatewayTimer::CancelAgain(worker, cancel, tries + 1);
            fabric.timer(CANCEL_AGAIN_US, Envelope::GatewayTimer(again));
        }
    }

    fn deliver(&mut self, request: RequestId, event: TokenEvent, fabric: &mut Fabric) {
        let Some(flight) = self.flights.get_mut(&request) else { return };
        if event.index == 0
            && let Some((placed_us, predicted_ms)) = flight.placed
        {
            let actual_ms = (fabric.queue.now_us() - placed_us) as f64 / 1e3;
            let (tokens, predicted_ms) = (flight.ask.prompt.len(), f64::from(predicted_ms));
            self.predictions.push(Prediction { tokens, predicted_ms, actual_ms });
        }
        if let (Some(opening), Some(expected)) = (&event.opening, flight.expected.take()) {
            self.prefixes.compare(expected, opening.cached_tokens);
            self.prefixes.learn(Names::of(Scope::shared(), &flight.ask.prompt).blocks());
        }
        // The first token of an attempt: its prompt waits nowhere any more.
        let prompts = flight.loads.extract_if(.., |(_, pending)| pending.prefills != 0);
        self.fleet.done(prompts, fabric.queue.now_ms());
        if flight.outcome == Outcome::Left {
            return;
        }
        assert_eq!(flight.outcome, Outcome::Open, "nothing follows the end");
        flight.delivered.extend(event.token);
        if flight.ask.leaves_after.is_some_and(|after| after < flight.delivered.len()) {
            self.tell(request, Input::Stop(CancelReason::ClientGone), fabric);
        }
    }

    fn end(&mut self, request: RequestId, end: End, fabric: &Fabric) {
        let Some(flight) = self.flights.get_mut(&request) else { return };
        self.fleet.done(std::mem::take(&mut flight.loads), fabric.queue.now_ms());
        if flight.outcome == Outcome::Left {
            return;
        }
        assert_eq!(flight.outcome, Outcome::Open, "it ends once");
        flight.outcome = match end {
            End::Finished => Outcome::Answered,
            End::Failed(refusal) => Outcome::Failed(refusal),
            End::Stopped(_) => Outcome::Left,
        };
    }
}

fn need(ask: &Ask, generated: usize, prefixes: &Prefixes) -> Need {
    let output_tokens = ask.stopping.max_tokens.saturating_sub(generated as u32);
    let tokens = (ask.prompt.len() + generated) as u32;
    let names = Names::of(Scope::shared(), &ask.prompt);
    Need { tokens, cached_tokens: prefixes.expected(names.blocks(), tokens), output_tokens }
}
