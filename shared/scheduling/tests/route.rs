//! Where requests go, and that every placement explains itself.

#![allow(clippy::unwrap_used, reason = "what helps a test may fail like a test")]

use std::collections::BTreeSet;

use proptest::prelude::*;
use protocol::{Role, Speed, StepCost, WorkerId};
use scheduling::route::{Choice, Disaggregate, Need, Placement, RouteError, WorkerView, place};

const NEED: Need = Need { tokens: 200, cached_tokens: 0, output_tokens: 64 };

fn id(name: &str) -> WorkerId {
    name.parse().unwrap()
}

fn speed(step_us: f32, token_us: f32, sequence_us: f32) -> Speed {
    let cost = |item_us| StepCost { step_us, item_us, pair_us: 0.0, error: 0.0, steps: 100 };
    Speed { prefill: cost(token_us), decode: cost(sequence_us) }
}

fn view(name: &str, role: Role) -> WorkerView {
    WorkerView {
        worker: id(name),
        role,
        ready: true,
        context_tokens: 2_048,
        step_tokens: 256,
        prefill_share: 1.0,
        queued_sequences: 0,
        queued_tokens: 0,
        queued_pairs: 0,
        queued_since_ms: 0,
        running_sequences: 0,
        running_tokens: 0,
        sequences_max: 32,
        pages_total: 512,
        pages_open: 512,
        speed: speed(1_000.0, 500.0, 800.0),
    }
}

fn at(need: Need, views: &[WorkerView], policy: Disaggregate) -> Placement {
    place(&need, views, &BTreeSet::new(), policy, 0).unwrap()
}

fn chosen(need: Need, views: &[WorkerView]) -> String {
    at(need, views, Disaggregate::Always).chosen().choice.to_string()
}

#[test]
fn prompt_and_generation_go_to_the_workers_of_their_role() {
    let views = [view("d", Role::Decode), view("p", Role::Prefill)];
    assert_eq!(chosen(NEED, &views), "p>d");
}

#[test]
fn equal_prices_go_to_the_lowest_ids() {
    let mut views = vec![
        view("d2", Role::Decode),
        view("p2", Role::Prefill),
        view("d1", Role::Decode),
        view("p1", Role::Prefill),
    ];
    assert_eq!(chosen(NEED, &views), "p1>d1");
    views.reverse();
    assert_eq!(chosen(NEED, &views), "p1>d1");
}

#[test]
fn a_queue_a_full_batch_and_a_full_pool_send_work_elsewhere() {
    let views = [
        WorkerView { queued_tokens: 4_000, ..view("p1", Role::Prefill) },
        view("p2", Role::Prefill),
        WorkerView { running_sequences: 32, ..view("d1", Role::Decode) },
        WorkerView { pages_open: 3, ..view("d2", Role::Decode) },
        view("d3", Role::Decode),
    ];
    assert_eq!(chosen(NEED, &views), "p2>d3");
}

#[test]
fn a_faster_worker_beats_an_idle_slow_one() {
    let slow = speed(20_000.0, 9_000.0, 9_000.0);
    let views = [
        WorkerView { speed: slow, ..view("p1", Role::Prefill) },
        WorkerView { queued_tokens: 600, ..view("p2", Role::Prefill) },
        view("d", Role::Decode),
    ];
    assert_eq!(chosen(NEED, &views), "p2>d");
}

#[test]
fn scoring_and_single_tokens_stay_on_a_prefill_worker() {
    let views = [view("d", Role::Decode), view("p", Role::Prefill)];
    for output_tokens in [0, 1] {
        assert_eq!(chosen(Need { output_tokens, ..NEED }, &views), "p");
    }
}

#[test]
fn a_prompt_below_one_block_is_not_handed_over() {
    let views = [view("d", Role::Decode), view("p", Role::Prefill)];
    assert_eq!(chosen(Need { tokens: 15, ..NEED }, &views), "d");
    assert_eq!(chosen(Need { tokens: 16, ..NEED }, &views), "p>d");
}

#[test]
fn with_one_role_alive_it_does_everything() {
    assert_eq!(chosen(NEED, &[view("p", Role::Prefill)]), "p");
    assert_eq!(chosen(NEED, &[view("d", Role::Decode)]), "d");
    let busy = WorkerView { ready: false, ..view("d", Role::Decode) };
    assert_eq!(chosen(NEED, &[busy, view("p", Role::Prefill)]), "p");
}

#[test]
fn never_keeps_a_request_together_and_auto_goes_by_price() {
    let mut views = [view("d", Role::Decode), view("p", Role::Prefill)];
    let whole = at(NEED, &views, Disaggregate::Never);
    assert!(matches!(whole.chosen().choice, Choice::Whole { .. }));
    // Idle workers: moving only costs.
    let idle = at(NEED, &views, Disaggregate::Auto);
    assert!(matches!(idle.chosen().choice, Choice::Whole { .. }));
    // A prompt here would stop sixteen generations.
    views[0].running_sequences = 16;
    views[1].running_sequences = 16;
    views[0].speed = speed(100.0, 500.0, 10.0);
    views[1].speed = speed(1_000.0, 10.0, 800.0);
    let busy = at(Need { output_tokens: 512, ..NEED }, &views, Disaggregate::Auto);
    assert_eq!(busy.chosen().choice.to_string(), "p>d");
    assert!(busy.candidates.iter().any(|c| matches!(c.choice, Choice::Whole { .. })));
}

#[test]
fn workers_that_failed_are_not_asked_again_and_the_reason_is_given() {
    let views = [view("d1", Role::Decode), view("d2", Role::Decode), view("p", Role::Prefill)];
    let avoid = BTreeSet::from([id("d1")]);
    let placement = place(&NEED, &views, &avoid, Disaggregate::Always, 0).unwrap();
    assert_eq!(placement.chosen().choice.to_string(), "p>d2");
    let avoid = BTreeSet::from([id("d1"), id("d2"), id("p")]);
    let error = place(&NEED, &views, &avoid, Disaggregate::Always, 0);
    assert_eq!(error, Err(RouteError::Excluded { excluded: 3 }));
    let none = place(&NEED, &[], &BTreeSet::new(), Disaggregate::Always, 0);
    assert_eq!(none, Err(RouteError::NoWorkers));
    let long = Need { tokens: 3_000, ..NEED };
    let error = place(&long, &views, &BTreeSet::new(), Disaggregate::Always, 0);
    assert_eq!(error, Err(RouteError::TooLong { tokens: 3_064, tokens_max: 2_048 }));
}

#[test]
fn a_placement_explains_itself() {
    let views = [view("d", Role::Decode), view("p", Role::Prefill)];
    let text = at(NEED, &views, Disaggregate::Always).chosen().to_string();
    assert_eq!(
        text,
        "p>d: queue 0.0 + prefill 101.0 + transfer 1.5 + decode 115.2 + harm 0.0 = 217.7 ms"
    );
}

fn any_view(index: usize) -> impl Strategy<Value = WorkerView> {
    (any::<bool>(), 0_u64..9_000, 0_u32..40, 0_u32..600, 1.0_f32..9_000.0).prop_map(
        move |(decode, queued_tokens, running_sequences, pages_open, us)| WorkerView {
            queued_tokens,
            running_sequences,
            pages_open: pages_open.min(512),
            speed: speed(us, us, us),
            ..view(&format!("w{index}"), if decode { Role::Decode } else { Role::Prefill })
        },
    )
}

proptest! {
    /// Looking at a few of each side finds what looking at every pair finds.
    #[test]
    fn pruning_loses_nothing(views in (2_usize..12).prop_flat_map(|count| {
        (0..count).map(any_view).collect::<Vec<_>>()
    })) {
        let best = at(NEED, &views, Disaggregate::Always);
        let mut cheapest = f32::INFINITY;
        for pair in views.iter().flat_map(|a| views.iter().map(move |b| [a, b])) {
            if pair[0].role == Role::Prefill && pair[1].role == Role::Decode {
                let only = [pair[0].clone(), pair[1].clone()];
                let price = at(NEED, &only, Disaggregate::Always).chosen().price.total_ms();
                cheapest = cheapest.min(price);
            }
        }
        if cheapest.is_finite() {
            prop_assert_eq!(best.chosen().price.total_ms(), cheapest);
        } else {
            let whole = matches!(best.chosen().choice, Choice::Whole { .. });
            prop_assert!(whole);
        }
    }
}
