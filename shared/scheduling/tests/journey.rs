//! A request's way through a cluster that loses, repeats and reorders whatever it likes.

#![allow(clippy::unwrap_used, reason = "what helps a test may fail like a test")]

use proptest::prelude::*;
use protocol::control::MissedReply;
use protocol::{
    Answer, Attempt, CancelReason, ErrorClass, Event, Failure, Finish, Leg, Opening, Refusal,
    RequestId, RequestKey, TokenEvent, WorkerId,
};
use scheduling::journey::{Action, End, Input, Journey, JourneyLimits};
use scheduling::route::Choice;

const REQUEST: RequestId = RequestId(7);
const DEADLINE_MS: u64 = 10_000;

fn id(name: &str) -> WorkerId {
    name.parse().unwrap()
}

fn key(attempt: u32) -> RequestKey {
    RequestKey { request: REQUEST, attempt: Attempt(attempt) }
}

fn token(attempt: u32, index: u32, last: u32) -> Event {
    Event::Token(TokenEvent {
        key: key(attempt),
        index,
        token: Some(100 + index),
        logprob: None,
        finish: (index == last).then_some(Finish::Length),
        opening: None,
        sent_us: 0,
        stages: None,
    })
}

fn from(worker: &str, event: Event) -> Input {
    Input::Event { worker: id(worker), event }
}

fn accepted(worker: &str, attempt: u32) -> Input {
    Input::Answered { worker: id(worker), attempt: Attempt(attempt), answer: Answer::Accepted }
}

fn refused(worker: &str, attempt: u32, class: ErrorClass) -> Input {
    let answer = Answer::Refused(Refusal::new(class, "no"));
    Input::Answered { worker: id(worker), attempt: Attempt(attempt), answer }
}

fn split(prefill: &str, decode: &str) -> Input {
    Input::Placed(Choice::Split { prefill: id(prefill), decode: id(decode) })
}

fn whole(worker: &str) -> Input {
    Input::Placed(Choice::Whole { worker: id(worker) })
}

fn cancel(worker: &str, attempt: u32, reason: CancelReason) -> Action {
    Action::Cancel { worker: id(worker), key: key(attempt), reason }
}

fn journey() -> Journey {
    Journey::new(REQUEST, DEADLINE_MS, JourneyLimits::default()).0
}

/// A journey whose legs on `p` and `d` are taken.
fn running() -> Journey {
    let mut journey = journey();
    journey.on(0, split("p", "d"));
    journey.on(1, accepted("p", 0));
    assert_eq!(journey.on(1, accepted("d", 0)), [Action::Started]);
    journey
}

fn delivered(actions: &[Action]) -> Vec<u32> {
    let index = |action: &Action| match action {
        Action::Deliver(event) => Some(event.index),
        _ => None,
    };
    actions.iter().filter_map(index).collect()
}

#[test]
fn both_legs_are_asked_and_the_tokens_arrive_in_order() {
    let mut journey = journey();
    let sends = journey.on(0, split("p", "d"));
    let legs =
        [(id("p"), Leg::Prefill { decode: id("d") }), (id("d"), Leg::Decode { prefill: id("p") })];
    assert_eq!(sends, legs.map(|(worker, leg)| Action::Send { worker, leg }));
    journey.on(1, accepted("p", 0));
    journey.on(1, accepted("d", 0));
    // Decode overtakes prefill: another connection.
    assert_eq!(journey.on(5, from("d", token(0, 1, 2))), []);
    assert_eq!(delivered(&journey.on(6, from("p", token(0, 0, 2)))), [0, 1]);
    let actions = journey.on(7, from("d", token(0, 2, 2)));
    assert_eq!(delivered(&actions), [2]);
    assert_eq!(actions[1..], [Action::End(End::Finished)]);
    assert_eq!(journey.output(), [100, 101, 102]);
}

#[test]
fn a_repeated_token_is_dropped_and_an_older_attempt_fenced() {
    let mut journey = running();
    journey.on(2, from("p", token(0, 0, 9)));
    assert_eq!(journey.on(2, from("p", token(0, 0, 9))), []);
    journey.on(3, Input::Gone { worker: id("d") });
    journey.on(3, split("p", "e"));
    assert_eq!(journey.on(4, from("d", token(0, 1, 9))), []);
    assert_eq!(journey.on(4, from("x", token(1, 1, 9))), []);
    assert_eq!((journey.tally().repeated, journey.tally().fenced), (1, 2));
}

#[test]
fn a_dead_decode_worker_is_replaced_and_the_stream_goes_on() {
    let mut journey = running();
    journey.on(2, from("p", token(0, 0, 3)));
    journey.on(3, from("d", token(0, 1, 3)));
    // Prefill is known to be done: only decode is replaced, nothing to cancel.
    assert_eq!(journey.on(4, Input::Gone { worker: id("d") }), [Action::Place]);
    assert_eq!(journey.avoid().iter().collect::<Vec<_>>(), [&id("d")]);
    assert_eq!(journey.output(), [100, 101]);
    journey.on(4, split("p", "e"));
    assert_eq!(delivered(&journey.on(5, from("p", token(1, 2, 3)))), [2]);
    assert_eq!(delivered(&journey.on(6, from("e", token(1, 3, 3)))), [3]);
    assert!(journey.ended());
}

#[test]
fn a_dead_prefill_worker_frees_the_waiting_decode_worker() {
    let mut journey = running();
    journey.on(2, from("p", token(0, 0, 3)));
    let actions = journey.on(3, Input::Gone { worker: id("p") });
    assert_eq!(actions, [cancel("d", 0, CancelReason::Superseded), Action::Place]);
}

#[test]
fn the_death_of_a_worker_that_has_nothing_to_do_any_more_changes_nothing() {
    let mut journey = running();
    journey.on(2, from("p", token(0, 0, 3)));
    journey.on(3, from("d", token(0, 1, 3)));
    assert_eq!(journey.on(4, Input::Gone { worker: id("p") }), []);
    assert_eq!(journey.holders().collect::<Vec<_>>(), [&id("d")]);
}

#[test]
fn a_refusal_sends_the_request_elsewhere_until_the_attempts_run_out() {
    let mut journey = journey();
    journey.on(0, split("p", "d"));
    let again = journey.on(1, refused("d", 0, ErrorClass::Overloaded));
    assert_eq!(again, [cancel("p", 0, CancelReason::Superseded), Action::Place]);
    // It accepted what is given up already.
    let late = journey.on(1, accepted("p", 0));
    assert_eq!(late, [cancel("p", 0, CancelReason::Superseded)]);
    journey.on(1, split("p", "e"));
    journey.on(2, refused("e", 1, ErrorClass::Overloaded));
    journey.on(2, whole("p"));
    let end = journey.on(3, refused("p", 2, ErrorClass::Overloaded));
    assert_eq!(end, [Action::End(End::Failed(Refusal::new(ErrorClass::Overloaded, "no")))]);
}

#[test]
fn a_request_that_is_wrong_is_wrong_everywhere() {
    let mut journey = journey();
    journey.on(0, whole("p"));
    let end = journey.on(1, refused("p", 0, ErrorClass::Invalid));
    assert_eq!(end, [Action::End(End::Failed(Refusal::new(ErrorClass::Invalid, "no")))]);
}

#[test]
fn the_end_carries_the_failure_and_that_no_worker_is_left() {
    let mut journey = running();
    journey.on(2, Input::Gone { worker: id("d") });
    let nowhere = Input::Unplaceable(Refusal::new(ErrorClass::Retry, "no other worker is ready"));
    let Action::End(End::Failed(refusal)) = &journey.on(3, nowhere)[0] else { panic!("no end") };
    assert_eq!(refusal.class, ErrorClass::Retry);
    assert_eq!(refusal.message, "worker d is gone; no other worker is ready");
}

#[test]
fn an_unanswered_job_is_cancelled_because_it_may_have_arrived() {
    let mut journey = journey();
    journey.on(0, split("p", "d"));
    let refusal = Refusal::new(ErrorClass::Retry, "no answer");
    let silent = Input::Unanswered { worker: id("d"), attempt: Attempt(0), refusal };
    let cancels = ["p", "d"].map(|worker| cancel(worker, 0, CancelReason::Superseded));
    assert_eq!(journey.on(5, silent), [cancels.to_vec(), vec![Action::Place]].concat());
}

#[test]
fn a_lasting_gap_is_asked_for_at_the_worker_that_owes_it() {
    let mut journey = running();
    journey.on(10, from("d", token(0, 1, 3)));
    assert_eq!(journey.wake_ms(), 50);
    assert_eq!(journey.on(49, Input::Tick), []);
    let ask = Action::AskMissed { worker: id("p"), key: key(0), from: 0 };
    assert_eq!(journey.on(50, Input::Tick), [ask]);
    let reply = MissedReply { events: vec![token(0, 0, 3)], known: true };
    let missed = Input::Missed { worker: id("p"), attempt: Attempt(0), reply };
    assert_eq!(delivered(&journey.on(51, missed)), [0, 1]);
    assert_eq!(journey.wake_ms(), DEADLINE_MS);
    journey.on(60, from("d", token(0, 3, 3)));
    let ask = Action::AskMissed { worker: id("d"), key: key(0), from: 2 };
    assert_eq!(journey.on(100, Input::Tick), [ask]);
    assert_eq!(journey.tally().gaps, 2);
}

#[test]
fn a_gap_at_the_start_of_a_later_attempt_is_owed_by_its_prefill_worker() {
    let mut journey = running();
    journey.on(2, from("p", token(0, 0, 9)));
    journey.on(3, Input::Gone { worker: id("d") });
    journey.on(3, split("p", "e"));
    journey.on(4, from("e", token(1, 2, 9)));
    let ask = Action::AskMissed { worker: id("p"), key: key(1), from: 1 };
    assert_eq!(journey.on(44, Input::Tick), [ask]);
}

#[test]
fn a_worker_that_finished_unheard_is_asked_and_one_that_forgot_is_replaced() {
    let mut journey = running();
    journey.on(2, from("p", token(0, 0, 2)));
    assert_eq!(journey.on(3, Input::Unknown { worker: id("p"), key: key(0) }), []);
    let asked = journey.on(3, Input::Unknown { worker: id("d"), key: key(0) });
    assert_eq!(asked, [Action::AskMissed { worker: id("d"), key: key(0), from: 1 }]);
    let mut forgot = journey.clone();
    let reply = MissedReply { events: vec![token(0, 1, 2), token(0, 2, 2)], known: true };
    let missed = Input::Missed { worker: id("d"), attempt: Attempt(0), reply };
    assert_eq!(journey.on(4, missed).last(), Some(&Action::End(End::Finished)));
    let reply = MissedReply { events: Vec::new(), known: false };
    let missed = Input::Missed { worker: id("d"), attempt: Attempt(0), reply };
    let again = [cancel("d", 0, CancelReason::Superseded), Action::Place];
    assert_eq!(forgot.on(4, missed), again);
}

#[test]
fn the_deadline_and_a_client_that_left_free_both_legs() {
    let mut late = running();
    let actions = late.on(DEADLINE_MS, Input::Tick);
    let cancels = ["p", "d"].map(|worker| cancel(worker, 0, CancelReason::Deadline));
    assert_eq!(actions[..2], cancels);
    assert!(matches!(&actions[2], Action::End(End::Failed(r)) if r.class == ErrorClass::Deadline));
    let mut left = running();
    let actions = left.on(5, Input::Stop(CancelReason::ClientGone));
    let cancels = ["p", "d"].map(|worker| cancel(worker, 0, CancelReason::ClientGone));
    assert_eq!(actions[..2], cancels);
    assert_eq!(actions[2], Action::End(End::Stopped(CancelReason::ClientGone)));
}

#[test]
fn a_sequence_that_ends_with_its_first_token_frees_decode() {
    let mut journey = running();
    let actions = journey.on(2, from("p", token(0, 0, 0)));
    assert_eq!(delivered(&actions), [0]);
    let end = [cancel("d", 0, CancelReason::Superseded), Action::End(End::Finished)];
    assert_eq!(actions[1..], end);
}

#[test]
fn only_the_first_opening_reaches_the_client() {
    let mut journey = running();
    let opening = Opening { cached_tokens: 3, stored_tokens: 0, prompt_logprobs: Vec::new() };
    let opened = |attempt, index| match token(attempt, index, 9) {
        Event::Token(event) => {
            Event::Token(TokenEvent { opening: Some(Box::new(opening.clone())), ..event })
        }
        failed => failed,
    };
    let openings = |actions: &[Action]| {
        actions.iter().filter(|a| matches!(a, Action::Deliver(e) if e.opening.is_some())).count()
    };
    assert_eq!(openings(&journey.on(2, from("p", opened(0, 0)))), 1);
    journey.on(3, Input::Gone { worker: id("d") });
    journey.on(3, whole("p"));
    let actions = journey.on(4, from("p", opened(1, 1)));
    assert_eq!((delivered(&actions), openings(&actions)), (vec![1], 0));
}

/// One thing a hostile network and dying workers may do next.
#[derive(Clone, Debug)]
enum Step {
    Token { attempt: u32, worker: usize, index: u32 },
    Answer { attempt: u32, worker: usize, yes: bool },
    Silent { attempt: u32, worker: usize },
    Fail { attempt: u32, worker: usize },
    Gone { worker: usize },
    Unknown { attempt: u32, worker: usize },
    Missed { attempt: u32, worker: usize, from: u32, count: u32, known: bool },
    Pass { ms: u64 },
    Stop,
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const LAST: u32 = 11;

fn step() -> impl Strategy<Value = Step> {
    let at = || (0_u32..4, 0_usize..NAMES.len());
    prop_oneof![
        20 => (at(), 0..=LAST).prop_map(|((attempt, worker), index)| Step::Token { attempt, worker, index }),
        6 => (at(), any::<bool>()).prop_map(|((attempt, worker), yes)| Step::Answer { attempt, worker, yes }),
        1 => at().prop_map(|(attempt, worker)| Step::Silent { attempt, worker }),
        1 => at().prop_map(|(attempt, worker)| Step::Fail { attempt, worker }),
        1 => (0..NAMES.len()).prop_map(|worker| Step::Gone { worker }),
        2 => at().prop_map(|(attempt, worker)| Step::Unknown { attempt, worker }),
        3 => (at(), 0..=LAST, 0_u32..4, any::<bool>()).prop_map(|((attempt, worker), from, count, known)| {
            Step::Missed { attempt, worker, from, count, known }
        }),
        5 => (1_u64..400).prop_map(|ms| Step::Pass { ms }),
        1 => Just(Step::Stop),
    ]
}

impl Step {
    fn input(&self) -> Option<Input> {
        Some(match *self {
            Self::Token { attempt, worker, index } => {
                from(NAMES[worker], token(attempt, index, LAST))
            }
            Self::Answer { attempt, worker, yes: true } => accepted(NAMES[worker], attempt),
            Self::Answer { attempt, worker, yes: false } => {
                refused(NAMES[worker], attempt, ErrorClass::Overloaded)
            }
            Self::Silent { attempt, worker } => Input::Unanswered {
                worker: id(NAMES[worker]),
                attempt: Attempt(attempt),
                refusal: Refusal::new(ErrorClass::Retry, "silent"),
            },
            Self::Fail { attempt, worker } => {
                let refusal = Refusal::new(ErrorClass::Retry, "failed");
                from(NAMES[worker], Event::Failed(Failure { key: key(attempt), refusal }))
            }
            Self::Gone { worker } => Input::Gone { worker: id(NAMES[worker]) },
            Self::Unknown { attempt, worker } => {
                Input::Unknown { worker: id(NAMES[worker]), key: key(attempt) }
            }
            Self::Missed { attempt, worker, from, count, known } => {
                let indexes = from..(from + count).min(LAST + 1);
                let events = indexes.map(|index| token(attempt, index, LAST)).collect();
                let reply = MissedReply { events, known };
                Input::Missed { worker: id(NAMES[worker]), attempt: Attempt(attempt), reply }
            }
            Self::Stop => Input::Stop(CancelReason::ClientGone),
            Self::Pass { .. } => return None,
        })
    }
}

/// Runs a journey through `steps`, then to its deadline; checks what must hold at every step.
struct Walk {
    journey: Journey,
    now_ms: u64,
    delivered: u32,
    ended: u32,
    /// Jobs sent and neither ended nor cancelled: worker, attempt.
    open: Vec<(WorkerId, u32)>,
    done: Vec<(WorkerId, u32)>,
    placements: usize,
}

impl Walk {
    fn act(&mut self, actions: Vec<Action>) -> Result<(), TestCaseError> {
        for action in actions {
            match action {
                Action::Place => {
                    let avoid = self.journey.avoid();
                    let left: Vec<_> = NAMES.iter().filter(|n| !avoid.contains(&id(n))).collect();
                    let placed = match left[..] {
                        [] => Input::Unplaceable(Refusal::new(ErrorClass::Retry, "no worker")),
                        [only] => whole(only),
                        [one, two, ..] => split(one, two),
                    };
                    self.placements += 1;
                    prop_assert!(self.placements <= 3, "attempts are bounded");
                    let next = self.journey.on(self.now_ms, placed);
                    self.act(next)?;
                }
                Action::Send { worker, .. } => {
                    self.open.push((worker, self.journey.key().attempt.0));
                }
                Action::Deliver(event) => {
                    prop_assert_eq!(self.ended, 0, "nothing follows the end");
                    prop_assert_eq!(event.index, self.delivered, "in order, once");
                    self.delivered += 1;
                }
                Action::Cancel { worker, key, .. } => {
                    self.open.retain(|leg| *leg != (worker.clone(), key.attempt.0));
                }
                Action::End(end) => {
                    self.ended += 1;
                    prop_assert_eq!(end == End::Finished, self.delivered == LAST + 1);
                }
                Action::Started | Action::AskMissed { .. } => {}
            }
        }
        Ok(())
    }

    fn note_done(&mut self, step: &Step) {
        let (worker, attempt) = match *step {
            // Its last token, a refusal, a failure: the worker holds nothing any more. A decode
            // token tells the same of prefill.
            Step::Token { worker, attempt, index } if index > 0 => (worker, attempt),
            Step::Missed { worker, attempt, .. } => (worker, attempt),
            Step::Answer { worker, attempt, yes: false } => (worker, attempt),
            Step::Fail { worker, attempt } | Step::Unknown { worker, attempt } => (worker, attempt),
            Step::Gone { worker } => {
                self.done.extend((0..5).map(|attempt| (id(NAMES[worker]), attempt)));
                return;
            }
            _ => return,
        };
        self.done.push((id(NAMES[worker]), attempt));
        // Decode reports on prefill, whichever of the four it was.
        if matches!(step, Step::Token { .. } | Step::Missed { .. }) {
            self.done.extend(NAMES.map(|name| (id(name), attempt)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever happens in whatever order: tokens once and in order, one end, by the deadline.
    #[test]
    fn nothing_a_network_does_breaks_the_stream(steps in proptest::collection::vec(step(), 0..120)) {
        let (journey, first) = Journey::new(REQUEST, DEADLINE_MS, JourneyLimits::default());
        let mut walk = Walk {
            journey, now_ms: 0, delivered: 0, ended: 0, open: Vec::new(), done: Vec::new(), placements: 0,
        };
        walk.act(vec![first])?;
        for step in &steps {
            if let Step::Pass { ms } = step {
                walk.now_ms += ms;
            }
            if !walk.journey.ended() {
                walk.note_done(step);
            }
            let input = step.input().unwrap_or(Input::Tick);
            let actions = walk.journey.on(walk.now_ms, input);
            walk.act(actions)?;
        }
        let actions = walk.journey.on(DEADLINE_MS.max(walk.now_ms), Input::Tick);
        walk.act(actions)?;
        prop_assert!(walk.journey.ended() && walk.ended == 1);
        let leaked: Vec<_> = walk.open.iter().filter(|leg| !walk.done.contains(leg)).collect();
        prop_assert!(leaked.is_empty(), "neither done nor cancelled: {leaked:?}");
    }
}
