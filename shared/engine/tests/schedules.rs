//! Random schedules from a seed: whatever comes, goes and shares the pages, every sequence says
//! what it says alone, and no page is lost.

#![allow(clippy::unwrap_used, reason = "what helps a test may fail like a test")]

mod support;

use std::collections::BTreeMap;

use chassis::clock::now_ms;
use engine::stepper::Ends;
use engine::{EngineHandle, Iteration, StepEvent, StepLoop, StepToken};
use protocol::{ErrorClass, RequestKey};
use scheduling::planner::Limits;
use scheduling::sequence::Part;
use support::{LIMITS, Tape, alone, greedy, key, planner, sequence};

const SEEDS: u64 = 300;
const ITERATIONS_MAX: u64 = 20_000;

struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) % end
    }
}

/// A client and what it does.
struct Client {
    prompt: Vec<u32>,
    max_tokens: usize,
    comes_at: u64,
    /// Gives up after more than this number of tokens.
    leaves_after: Option<usize>,
}

#[derive(Default)]
struct Seen {
    said: BTreeMap<RequestKey, Vec<u32>>,
    /// Ended by themselves, or given up.
    over: BTreeMap<RequestKey, bool>,
    /// To be fetched, and when.
    fetching: Vec<(u64, RequestKey, usize)>,
}

fn clients(dice: &mut Dice) -> Vec<Client> {
    (0..1 + dice.below(12))
        .map(|_| {
            // Prompts share prefixes on purpose.
            let prompt = (0..1 + dice.below(70) as u32).map(|at| 1 + at % 50).collect();
            let max_tokens = 1 + dice.below(40) as usize;
            let leaves = dice.below(4) == 0;
            let leaves_after = leaves.then(|| dice.below(max_tokens as u64) as usize);
            Client { prompt, max_tokens, comes_at: dice.below(60), leaves_after }
        })
        .collect()
}

/// Reads the events of an iteration and cancels for clients that leave.
fn read(ends: &mut Ends, iteration: u64, seen: &mut Seen, clients: &[Client], dice: &mut Dice) {
    let Ends { handle, steps, blocks } = ends;
    while blocks.try_recv().is_ok() {}
    while let Ok(mut events) = steps.try_recv() {
        for event in events.drain() {
            match event {
                StepEvent::Admitted { admitted, .. } => {
                    let at = iteration + dice.below(4);
                    seen.fetching.push((at, admitted.key, admitted.first_block * 16));
                }
                StepEvent::Token(StepToken { key, index, token, finish, .. }) => {
                    assert!(!seen.over.contains_key(&key), "a token after the end");
                    let said = seen.said.entry(key).or_default();
                    assert_eq!(index as usize, said.len());
                    said.extend(token);
                    let client = &clients[key.request.0 as usize];
                    if finish.is_some() {
                        seen.over.insert(key, false);
                    } else if client.leaves_after.is_some_and(|after| after < said.len()) {
                        assert!(handle.cancel(&key));
                        seen.over.insert(key, true);
                    }
                }
                StepEvent::Failed { refusal, .. } => panic!("{refusal}"),
                StepEvent::Stepped(step) => panic!("no request is traced, but {step:?}"),
            }
        }
    }
}

/// Plays one schedule; gives how many sequences were preempted and how many were given up.
fn play(seed: u64, runtime: &tokio::runtime::Runtime) -> (u64, usize) {
    let mut dice = Dice(seed);
    let limits = Limits {
        step_tokens: 1 + dice.below(40) as usize,
        prefill_share: dice.below(5) as f32 / 4.0,
        sequences_max: 1 + dice.below(8) as usize,
        ..LIMITS
    };
    let pages = 7 + dice.below(12) as u32;
    let clients = clients(&mut dice);
    let (mut step_loop, mut ends) = StepLoop::new(Tape::new(pages), planner(limits, pages), 4096);
    let mut seen = Seen::default();
    for iteration in 0.. {
        assert!(iteration < ITERATIONS_MAX, "seed {seed} never ends");
        for (id, client) in (0..).zip(&clients).filter(|(_, client)| client.comes_at == iteration) {
            let max_tokens = client.max_tokens as u32;
            let new = sequence(id, Part::Whole, client.prompt.clone(), max_tokens);
            ends.handle.submit(new, greedy(), now_ms()).unwrap();
        }
        let due = seen.fetching.extract_if(.., |(at, ..)| *at <= iteration).collect::<Vec<_>>();
        for (_, key, tokens) in due {
            runtime.block_on(ends.handle.fetched(key, tokens)).unwrap();
        }
        assert_ne!(step_loop.iterate(), Iteration::Closed);
        read(&mut ends, iteration, &mut seen, &clients, &mut dice);
        let pool = step_loop.planner().pool_state();
        assert_eq!(pool.free + pool.cached + pool.leased, pool.total, "seed {seed}");
        assert_eq!(pool.leaked, 0, "seed {seed}");
        if seen.over.len() == clients.len() {
            break;
        }
    }
    step_loop.iterate();
    assert_eq!(step_loop.planner().pool_state().leased, 0, "seed {seed}");
    for (id, client) in (0..).zip(&clients) {
        let expected = alone(&client.prompt, client.max_tokens);
        let said = seen.said.remove(&key(id)).unwrap_or_default();
        let cancelled = seen.over[&key(id)];
        assert_eq!(said, expected[..said.len()], "seed {seed}, sequence {id}");
        assert!(cancelled || said.len() == expected.len(), "seed {seed}, sequence {id}");
    }
    every_place_is_free_again(&ends.handle, limits.queue_max);
    let cancelled = seen.over.values().filter(|cancelled| **cancelled).count();
    (step_loop.planner().load().preempted, cancelled)
}

fn every_place_is_free_again(handle: &EngineHandle, queue_max: usize) {
    for id in 0..queue_max as u128 {
        let new = sequence(1000 + id, Part::Whole, vec![1], 1);
        handle.submit(new, greedy(), now_ms()).unwrap();
    }
    let refused = handle.submit(sequence(5000, Part::Whole, vec![1], 1), greedy(), now_ms());
    assert_eq!(refused.unwrap_err().class, ErrorClass::Overloaded);
}

#[test]
fn company_chunks_preemption_and_leaving_change_no_token() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (mut preempted, mut cancelled) = (0, 0);
    for seed in 0..SEEDS {
        let counted = play(seed, &runtime);
        preempted += counted.0;
        cancelled += counted.1;
    }
    println!("{SEEDS} schedules: {preempted} preemptions, {cancelled} cancelled");
    assert!(preempted > 100 && cancelled > 100, "the schedules are too easy");
}

#[test]
fn accepted_and_refused_at_once_whatever_the_loop_does() {
    let (mut step_loop, Ends { handle, mut steps, blocks: _blocks }) =
        StepLoop::new(Tape::new(8), planner(LIMITS, 8), 64);
    // The loop does not iterate: every answer comes without it.
    for id in 0..LIMITS.queue_max as u128 {
        handle.submit(sequence(id, Part::Whole, vec![1; 5], 1), greedy(), now_ms()).unwrap();
    }
    let again = handle.submit(sequence(3, Part::Whole, vec![1; 5], 1), greedy(), now_ms());
    assert_eq!(again, Ok(()), "accepted again");
    let new = sequence(99, Part::Whole, vec![1; 5], 1);
    let full = handle.submit(new.clone(), greedy(), now_ms()).unwrap_err();
    assert_eq!(full.class, ErrorClass::Overloaded);
    assert!(full.message.contains("32 sequences"), "{full}");
    let long = sequence(99, Part::Whole, vec![1; 300], 1);
    assert_eq!(handle.submit(long, greedy(), now_ms()).unwrap_err().class, ErrorClass::Invalid);

    // One that is given up before the loop saw it leaves no trace, and its place comes back.
    assert!(handle.cancel(&key(0)));
    assert_eq!(handle.renew(&[key(0), key(1)], now_ms()), [key(0)]);
    step_loop.iterate();
    assert!(step_loop.planner().sequence(&key(0)).is_none());
    assert_eq!(step_loop.planner().waiting(), 32 - 1 - LIMITS.sequences_max);
    handle.submit(new, greedy(), now_ms()).unwrap();
    let admitted = steps.try_recv().unwrap().drain().count();
    assert_eq!(admitted, LIMITS.sequences_max);
}
