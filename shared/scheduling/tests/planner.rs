//! The planner as the engine drives it, with a model that needs no arithmetic.

#![allow(clippy::unwrap_used, reason = "what helps a test may fail like a test")]

use proptest::prelude::*;
use protocol::{
    Attempt, FileDigest, Finish, ModelFingerprint, RequestId, RequestKey, Scope, Stopping,
};
use scheduling::planner::{Limits, Logits, Planner, Row};
use scheduling::sequence::{NewSequence, Part};

const LIMITS: Limits = Limits {
    context_tokens: 512,
    step_tokens: 64,
    prefill_share: 0.5,
    sequences_max: 8,
    queue_max: 64,
    lease_ms: 5_000,
};

fn planner(pages: u32, limits: Limits) -> Planner {
    Planner::new(limits, ModelFingerprint::new(FileDigest([1; 32]), "test"), pages)
}

fn key(id: u128) -> RequestKey {
    RequestKey { request: RequestId(id), attempt: Attempt(0) }
}

fn new(id: u128, part: Part, prompt: Vec<u32>, max_tokens: u32) -> NewSequence {
    NewSequence {
        key: key(id),
        part,
        prompt,
        output: Vec::new(),
        stopping: Stopping { max_tokens, min_tokens: 0, stop_tokens: vec![0] },
        scope: Scope::shared(),
        score_prompt: false,
        deadline_ms: 1_000_000,
    }
}

/// A model: the next token depends on all tokens so far and on nothing else.
fn next_token(tokens: &[u32]) -> u32 {
    1 + tokens.iter().fold(17u32, |hash, token| hash.wrapping_mul(31).wrapping_add(*token)) % 97
}

/// Runs one step; returns the finished sequences' outputs.
fn step(planner: &mut Planner) -> (Vec<Row>, Vec<(RequestKey, Vec<u32>)>) {
    for admitted in planner.admit() {
        planner.fetched(&admitted.key, admitted.first_block * 16);
    }
    let rows = planner.plan();
    let mut finished = Vec::new();
    for row in &rows {
        let sequence = planner.sequence(&row.key).unwrap();
        assert_eq!(sequence.computed, row.start);
        assert!(row.start + row.count <= sequence.pages.len() * 16, "a row has its pages");
        let chosen = (row.logits == Logits::Last).then(|| next_token(&sequence.tokens));
        let outcome = planner.commit(row, chosen).unwrap();
        if outcome.done {
            let output = planner.sequence(&row.key).unwrap().output().to_vec();
            planner.retire(&row.key);
            finished.push((row.key, output));
        }
    }
    (rows, finished)
}

fn run_alone(prompt: &[u32], max_tokens: u32) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    for _ in 0..max_tokens {
        tokens.push(next_token(&tokens));
    }
    tokens.split_off(prompt.len())
}

#[test]
fn a_newcomer_joins_at_the_next_step() {
    let mut planner = planner(64, LIMITS);
    planner.submit(new(1, Part::Whole, vec![5; 20], 50), 0).unwrap();
    step(&mut planner);
    step(&mut planner);
    planner.submit(new(2, Part::Whole, vec![6; 20], 50), 0).unwrap();
    let (rows, _) = step(&mut planner);
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert_eq!(rows[0], Row { key: key(1), start: 21, count: 1, logits: Logits::Last });
    assert_eq!(rows[1], Row { key: key(2), start: 0, count: 20, logits: Logits::Last });
}

#[test]
fn a_long_prompt_leaves_room_for_decodes() {
    let mut planner = planner(64, LIMITS);
    planner.submit(new(1, Part::Whole, vec![5; 20], 50), 0).unwrap();
    step(&mut planner);
    planner.submit(new(2, Part::Whole, vec![6; 300], 50), 0).unwrap();
    let (rows, _) = step(&mut planner);
    assert_eq!(rows[0].count, 1);
    assert_eq!((rows[1].count, rows[1].logits), (32, Logits::None));
}

#[test]
fn a_prompt_seen_before_is_computed_from_its_last_block_on() {
    let mut planner = planner(64, LIMITS);
    for id in [1, 2] {
        planner.submit(new(id, Part::Prefill, (1..=96).collect(), 50), 0).unwrap();
        while planner.sequence(&key(id)).is_some() {
            let (rows, _) = step(&mut planner);
            if id == 2 {
                assert_eq!((rows[0].start, rows[0].count), (80, 16));
            }
        }
    }
}

#[test]
fn decode_goes_on_from_blocks_that_another_worker_computed() {
    let mut planner = planner(64, LIMITS);
    planner.submit(new(1, Part::Decode, (1..=40).collect(), 3), 0).unwrap();
    let admitted = planner.admit().remove(0);
    assert_eq!((admitted.missing.len(), admitted.awaited), (3, true), "two blocks and a tail");
    assert!(planner.plan().is_empty());
    planner.fetched(&key(1), 40);
    assert!(planner.plan().is_empty(), "the first token is not known yet");
    assert_eq!(planner.first_token(&key(1), 7), None);
    let rows = planner.plan();
    assert_eq!(rows, [Row { key: key(1), start: 40, count: 1, logits: Logits::Last }]);
    let outcome = planner.commit(&rows[0], Some(9)).unwrap();
    assert_eq!((outcome.index, outcome.finish), (Some(1), None));
}

#[test]
fn blocks_that_never_came_are_computed_here() {
    let mut planner = planner(64, LIMITS);
    planner.submit(new(1, Part::Decode, (1..=40).collect(), 3), 0).unwrap();
    planner.admit();
    planner.fetched(&key(1), 16);
    planner.first_token(&key(1), 7);
    let rows = planner.plan();
    assert_eq!(rows, [Row { key: key(1), start: 16, count: 25, logits: Logits::Last }]);
    assert_eq!(planner.commit(&rows[0], Some(9)).unwrap().index, Some(1));
}

#[test]
fn prefill_hands_over_its_tail_and_its_first_token() {
    let mut planner = planner(64, LIMITS);
    planner.submit(new(1, Part::Prefill, (1..=40).collect(), 9), 0).unwrap();
    planner.admit();
    planner.fetched(&key(1), 0);
    let rows = planner.plan();
    let outcome = planner.commit(&rows[0], Some(9)).unwrap();
    assert_eq!(outcome.sealed.iter().map(|sealed| sealed.0).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(outcome.tail.map(|tail| tail.2), Some(8));
    assert!(outcome.done && outcome.finish.is_none());
}

#[test]
fn scoring_a_prompt_takes_no_shortcut_and_no_token() {
    let mut planner = planner(64, LIMITS);
    for id in [1, 2] {
        let mut new = new(id, Part::Whole, (1..=48).collect(), 0);
        new.score_prompt = true;
        planner.submit(new, 0).unwrap();
        planner.admit();
        planner.fetched(&key(id), 0);
        let rows = planner.plan();
        assert_eq!((rows[0].start, rows[0].count, rows[0].logits), (0, 48, Logits::All));
        let outcome = planner.commit(&rows[0], None).unwrap();
        assert_eq!(
            (outcome.finish, outcome.index, outcome.done),
            (Some(Finish::Length), None, true)
        );
        planner.retire(&key(id));
    }
}

#[test]
fn sequences_without_a_renewed_lease_are_freed() {
    let mut planner = planner(64, LIMITS);
    planner.submit(new(1, Part::Whole, vec![5; 40], 50), 0).unwrap();
    planner.submit(new(2, Part::Whole, vec![6; 40], 50), 0).unwrap();
    step(&mut planner);
    assert!(planner.keep(&key(1), 4_000));
    assert_eq!(planner.expire(5_000).iter().map(|gone| gone.key).collect::<Vec<_>>(), [key(2)]);
    assert_eq!(planner.expire(1_000_000).len(), 1);
    let state = planner.pool_state();
    assert_eq!((state.leased, state.leaked), (0, 0));
}

#[test]
fn refusals_name_what_is_wrong() {
    let mut planner = planner(4, Limits { queue_max: 1, ..LIMITS });
    let refused = |planner: &mut Planner, new| planner.submit(new, 0).unwrap_err().to_string();
    let long = refused(&mut planner, new(1, Part::Whole, vec![5; 513], 1));
    assert!(long.contains("513") && long.contains("512"), "{long}");
    let wide = refused(&mut planner, new(1, Part::Whole, vec![5; 64], 1));
    assert!(wide.contains("5 KV pages") && wide.contains("has 4"), "{wide}");
    planner.submit(new(1, Part::Whole, vec![5; 4], 1), 0).unwrap();
    let full = refused(&mut planner, new(2, Part::Whole, vec![5; 4], 1));
    assert!(full.starts_with("overloaded"), "{full}");
    planner.submit(new(1, Part::Whole, vec![5; 4], 1), 0).expect("known already");
}

#[test]
fn a_sequence_ends_where_the_pages_do() {
    let mut planner = planner(3, LIMITS);
    planner.submit(new(1, Part::Whole, vec![5; 20], 500), 0).unwrap();
    let mut output = Vec::new();
    for _ in 0..100 {
        let (_, finished) = step(&mut planner);
        output.extend(finished.into_iter().flat_map(|(_, output)| output));
    }
    assert_eq!(output.len(), 28, "three pages hold 48 tokens");
    assert_eq!(planner.load().preempted, 0);
}

proptest! {
    /// Whatever comes together, whoever leaves and however few pages there are: every output is the
    /// one that the sequence has alone, and no page is lost.
    #[test]
    fn company_and_preemption_change_nothing(
        prompts in prop::collection::vec(
            (1usize..60, 1u32..40, 0usize..30, prop::option::of(0usize..60)),
            1..12,
        ),
        pages in 7u32..20,
        step_tokens in 1usize..40,
        prefill_share in 0f32..1.0,
    ) {
        let mut planner = planner(pages, Limits { step_tokens, prefill_share, ..LIMITS });
        let mut expected = std::collections::BTreeMap::new();
        let mut arrivals: Vec<_> = prompts
            .iter()
            .enumerate()
            .map(|(id, (length, max_tokens, at, _))| {
                // Prompts share prefixes on purpose.
                let prompt: Vec<u32> = (0..*length as u32).map(|i| 1 + i % 50).collect();
                expected.insert(key(id as u128), run_alone(&prompt, *max_tokens));
                (*at, new(id as u128, Part::Whole, prompt, *max_tokens))
            })
            .collect();
        let mut leaving: Vec<_> = prompts
            .iter()
            .enumerate()
            .filter_map(|(id, (.., at, leaves))| Some((at + (*leaves)?, key(id as u128))))
            .collect();
        let mut finished = std::collections::BTreeMap::new();
        for tick in 0.. {
            prop_assert!(tick < 20_000, "never ends");
            let due: Vec<_> = arrivals.extract_if(.., |(at, _)| *at <= tick).collect();
            for (_, new) in due {
                planner.submit(new, 0).unwrap();
            }
            for (_, key) in leaving.extract_if(.., |(at, _)| *at <= tick) {
                if planner.retire(&key).is_some() {
                    expected.remove(&key);
                }
            }
            let (rows, done) = step(&mut planner);
            let prefill: usize = rows.iter().map(|row| row.count).filter(|count| *count > 1).sum();
            prop_assert!(prefill <= step_tokens.max(16));
            finished.extend(done);
            let state = planner.pool_state();
            prop_assert_eq!(state.free + state.cached + state.leased, state.total);
            prop_assert_eq!(state.leaked, 0);
            if finished.len() == expected.len() {
                prop_assert_eq!(state.leased, 0);
                break;
            }
        }
        prop_assert_eq!(finished, expected);
    }

    /// Giving sequences up at any moment frees exactly what they held.
    #[test]
    fn giving_up_leaks_nothing(cancel_at in prop::collection::vec(0usize..20, 6)) {
        let mut planner = planner(12, LIMITS);
        for id in 0..6 {
            planner.submit(new(id, Part::Whole, vec![3; 10 + 7 * id as usize], 30), 0).unwrap();
        }
        for tick in 0..20 {
            step(&mut planner);
            for (id, at) in cancel_at.iter().enumerate() {
                if *at == tick {
                    planner.retire(&key(id as u128));
                }
            }
            prop_assert_eq!(planner.pool_state().leaked, 0);
        }
        prop_assert_eq!(planner.pool_state().leased, 0);
    }
}
