//! That predictions come true: machines of several kinds, learned from their steps.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "what helps a test may fail like a test, and shows what it saw"
)]

use proptest::prelude::*;
use protocol::{PoolState, Role, Speed, SplitMix64, StepCost, WorkerState};
use scheduling::route::{Ledger, Need, Pending, WorkerView};
use scheduling::speed::{SpeedFit, StepWork};

const STEP_TOKENS: usize = 256;

/// A machine: what its steps really take.
#[derive(Clone, Copy)]
struct Machine {
    step_us: f64,
    token_us: f64,
    pair_us: f64,
    /// Steps take up to this share more or less.
    noise: f64,
}

const LINEAR: Machine = Machine { step_us: 2_000.0, token_us: 600.0, pair_us: 0.0, noise: 0.0 };
/// At 6,000 tokens attention costs as much as everything else.
const CURVED: Machine = Machine { pair_us: 0.1, ..LINEAR };

/// A machine at work, and what it has learned.
struct Bench {
    machine: Machine,
    fit: SpeedFit,
    dice: SplitMix64,
}

impl Bench {
    fn new(machine: Machine, seed: u64) -> Self {
        Self { machine, fit: SpeedFit::default(), dice: SplitMix64::new(seed) }
    }

    fn true_us(&self, work: &StepWork) -> f64 {
        let Machine { step_us, token_us, pair_us, .. } = self.machine;
        let pairs = (work.prefill_pairs + work.decode_pairs) as f64;
        let items = f64::from(work.prefill_tokens) * token_us
            + f64::from(work.decode_sequences) * 2.0 * token_us;
        step_us + items + pairs * pair_us
    }

    fn step(&mut self, work: &StepWork) {
        let noise = 1.0 + self.machine.noise * (2.0 * self.dice.unit() - 1.0);
        let took_us = self.true_us(work) * noise;
        self.fit.observe(work, took_us);
    }

    /// Computes a prompt as the planner cuts it.
    fn prompt(&mut self, tokens: usize) {
        chunks(tokens).for_each(|work| self.step(&work));
    }

    /// Computes `count` prompts of `from` to `to` tokens.
    fn prompts(&mut self, count: usize, from: usize, to: usize) {
        for _ in 0..count {
            let tokens = from + (self.dice.unit() * (to - from) as f64) as usize;
            self.prompt(tokens);
        }
    }

    /// Steps of up to eight sequences that only generate.
    fn generate(&mut self, steps: usize, context: usize) {
        for _ in 0..steps {
            let mut work = StepWork::default();
            for _ in 0..1 + (self.dice.unit() * 8.0) as usize {
                work.generating(context);
            }
            self.step(&work);
        }
    }

    /// Predicted over true time to the first token of a prompt on the idle machine.
    fn ratio(&self, tokens: usize) -> f64 {
        let true_us: f64 = chunks(tokens).map(|work| self.true_us(&work)).sum();
        f64::from(idle_ms(self.fit.speed(), tokens)) * 1e3 / true_us
    }
}

fn chunks(tokens: usize) -> impl Iterator<Item = StepWork> {
    (0..tokens).step_by(STEP_TOKENS).map(move |start| {
        let mut work = StepWork::default();
        work.prompt(start, STEP_TOKENS.min(tokens - start));
        work
    })
}

fn state(speed: Speed) -> WorkerState {
    WorkerState {
        prefill_share: 1.0,
        step_tokens: STEP_TOKENS as u32,
        context_tokens: 65_536,
        sequences_max: 32,
        pool: PoolState { free: 8_192, total: 8_192, ..PoolState::default() },
        speed,
        ..testbed::idle_worker("w", Role::Prefill)
    }
}

fn view(speed: Speed) -> WorkerView {
    WorkerView::new(&state(speed), Pending::default(), 0)
}

fn need(tokens: usize) -> Need {
    Need { tokens: tokens as u32, cached_tokens: 0, output_tokens: 16 }
}

fn idle_ms(speed: Speed, tokens: usize) -> f32 {
    let (queue_ms, prefill_ms) = view(speed).first_token_ms(&need(tokens), 0);
    queue_ms + prefill_ms
}

/// Checks predictions for prompts of these lengths, and prints them.
#[track_caller]
fn within(bench: &Bench, what: &str, lengths: &[usize], most: f64) {
    for tokens in lengths {
        let ratio = bench.ratio(*tokens);
        println!("{what}: {tokens} tokens predicted at {ratio:.3} of what they take");
        let bounds = 1.0 / (1.0 + most)..=1.0 + most;
        assert!(bounds.contains(&ratio), "{what}: {ratio} at {tokens}");
    }
}

#[test]
fn machines_of_both_kinds_are_learned_from_mixed_prompts() {
    for (name, machine) in [("linear", LINEAR), ("curved", CURVED)] {
        for (noise, most) in [(0.0, 0.03), (0.1, 0.15), (0.3, 0.30)] {
            for seed in 0..20 {
                let mut bench = Bench::new(Machine { noise, ..machine }, seed);
                bench.prompts(60, 20, 3_000);
                let what = format!("{name}, noise {noise}, seed {seed}");
                within(&bench, &what, &[50, 300, 1_000, 5_201, 16_000], most);
            }
        }
    }
}

#[test]
fn short_prompts_say_little_of_long_ones_and_one_long_prompt_says_it_all() {
    for (name, machine, most) in [("linear", LINEAR, 1.5), ("curved", CURVED, 1.5)] {
        for noise in [0.0, 0.1, 0.3] {
            for seed in 0..20 {
                let mut bench = Bench::new(Machine { noise, ..machine }, seed);
                bench.prompts(200, 5, 200);
                let what = format!("{name} by short ones, noise {noise}, seed {seed}");
                within(&bench, &what, &[100], 0.2);
                within(&bench, &what, &[5_201, 16_000], most);
                bench.prompt(5_201);
                within(&bench, &format!("{what}, then a long one"), &[5_201, 16_000], 0.3);
            }
        }
    }
}

#[test]
fn steps_that_are_all_alike_leave_no_nonsense() {
    let mut bench = Bench::new(LINEAR, 1);
    (0..100).for_each(|_| bench.prompt(STEP_TOKENS));
    within(&bench, "full steps", &[256, 1_024], 0.1);
    within(&bench, "full steps", &[16, 64, 5_201, 16_000], 1.0);
}

#[test]
fn the_first_step_is_worth_more_than_any_assumption() {
    let mut bench = Bench::new(LINEAR, 1);
    bench.prompt(100);
    within(&bench, "after one step", &[100, 300, 1_000], 0.25);
}

#[test]
fn a_change_of_speed_is_followed_and_the_error_tells_of_it() {
    for factor in [4.0, 0.25] {
        let mut bench = Bench::new(Machine { noise: 0.1, ..CURVED }, 7);
        bench.prompts(60, 20, 3_000);
        let before = bench.fit.speed().prefill.error;
        let Machine { step_us, token_us, pair_us, noise } = bench.machine;
        let (step_us, token_us, pair_us) = (step_us * factor, token_us * factor, pair_us * factor);
        bench.machine = Machine { step_us, token_us, pair_us, noise };
        bench.prompt(2_560);
        let during = bench.fit.speed().prefill.error;
        assert!(before < 0.1 && 4.0 * before < during, "{before} then {during}");
        bench.prompt(10_240);
        within(&bench, &format!("{factor} times as slow, 50 steps on"), &[300, 5_201, 16_000], 0.3);
        bench.prompts(30, 20, 3_000);
        within(&bench, &format!("{factor} times as slow, later"), &[300, 5_201, 16_000], 0.15);
        assert!(bench.fit.speed().prefill.error < 0.1);
    }
}

#[test]
fn a_busy_moment_is_not_taken_for_a_slower_machine() {
    let mut bench = Bench::new(Machine { noise: 0.1, ..CURVED }, 3);
    for round in 0..300 {
        bench.prompts(1, 20, 1_000);
        if round % 10 == 0 {
            let mut work = StepWork::default();
            work.prompt(0, 200);
            let took_us = 10.0 * bench.true_us(&work);
            bench.fit.observe(&work, took_us);
        }
    }
    within(&bench, "one step in thirty takes ten times as long", &[50, 300, 1_000, 5_201], 0.25);
}

#[test]
fn generating_for_long_unlearns_nothing_about_prompts() {
    let mut bench = Bench::new(Machine { noise: 0.1, ..CURVED }, 5);
    bench.prompts(60, 20, 3_000);
    let before = bench.fit.speed().prefill;
    bench.generate(20_000, 500);
    assert_eq!(bench.fit.speed().prefill, before);
    let decode = bench.fit.speed().decode;
    let (predicted, truth) = (decode.us(1.0, 4.0, 2_000.0), 2_000.0 + 4.0 * 1_200.0 + 200.0);
    assert!((predicted / truth - 1.0).abs() < 0.1, "{predicted} of {truth}");
}

#[test]
fn sequences_that_generate_beside_a_prompt_are_not_charged_to_it() {
    let mut bench = Bench::new(Machine { noise: 0.1, ..CURVED }, 9);
    bench.generate(300, 800);
    for _ in 0..40 {
        for mut work in chunks(1_000) {
            (0..6).for_each(|_| work.generating(800));
            bench.step(&work);
        }
    }
    within(&bench, "with six others", &[300, 1_000, 5_201], 0.2);
}

#[test]
fn a_free_machine_is_predicted_to_be_free() {
    let mut bench = Bench::new(Machine { step_us: 3.0, token_us: 0.0, ..LINEAR }, 2);
    bench.prompts(50, 1, 3_000);
    let ms = idle_ms(bench.fit.speed(), 5_201);
    assert!(ms < 1.0, "{ms}");
}

#[test]
fn steps_without_work_or_time_teach_nothing() {
    let mut fit = SpeedFit::default();
    fit.observe(&StepWork::default(), 100.0);
    let mut work = StepWork::default();
    work.prompt(0, 10);
    for took_us in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        fit.observe(&work, took_us);
    }
    let speed = fit.speed();
    assert!(!speed.prefill.is_measured() && !speed.decode.is_measured());
}

#[test]
fn what_was_not_measured_is_taken_from_those_that_did() {
    let cost = |item_us| StepCost { step_us: 10.0, item_us, pair_us: 0.0, error: 0.1, steps: 50 };
    let prefill = view(Speed { prefill: cost(100.0), decode: StepCost::default() });
    let mut decode = view(Speed { prefill: StepCost::default(), decode: cost(30.0) });
    assert_eq!(decode.speed.prefill.item_us, 500.0);
    decode.assume([prefill, decode.clone()].iter());
    assert_eq!((decode.speed.prefill.item_us, decode.speed.decode.item_us), (100.0, 30.0));
    assert!(!decode.is_measured());
}

#[test]
fn a_queue_is_worked_off_while_time_passes() {
    let cost = StepCost { step_us: 0.0, item_us: 1_000.0, pair_us: 0.0, error: 0.1, steps: 50 };
    let mut view = view(Speed { prefill: cost, decode: cost });
    let queue_ms = |view: &WorkerView, now_ms| view.first_token_ms(&need(10), now_ms).0;
    view.add(need(500).prompt(), 1_000);
    assert_eq!(queue_ms(&view, 1_000), 500.0);
    assert_eq!(queue_ms(&view, 1_200), 300.0);
    view.add(need(100).prompt(), 1_200);
    assert_eq!(queue_ms(&view, 1_200), 400.0);
    view.remove(need(500).prompt(), 1_450);
    assert_eq!(queue_ms(&view, 1_500), 50.0);
    assert_eq!(queue_ms(&view, 9_000), 0.0);
}

#[test]
fn a_prompt_that_is_done_takes_only_its_own_rest_from_the_queue() {
    let mut ledger = Ledger::default();
    ledger.add(need(500).prompt(), 0);
    ledger.add(need(300).prompt(), 10);
    ledger.add(need(90).prompt(), 4_950);
    // It has computed 460 of the first prompt's tokens, none of the second's, and not got the last.
    let reported = WorkerState { queued_tokens: 340, ..state(Speed::default()) };
    let unreported = ledger.unreported(&reported, 5_000);
    assert_eq!((unreported.prefills, unreported.prompt_tokens), (1, 90));
    let mut done = |tokens| ledger.remove(need(tokens).prompt()).map(|left| left.prompt_tokens);
    assert_eq!([done(500), done(300), done(90), done(90)], [Some(40), Some(300), Some(90), None]);
}

fn any_cost() -> impl Strategy<Value = StepCost> {
    (0.0_f32..1e6, 0.0_f32..1e5, 0.0_f32..10.0, any::<bool>()).prop_map(
        |(step_us, item_us, pair_us, known)| StepCost {
            step_us,
            item_us,
            pair_us,
            error: 0.2,
            steps: if known { 100 } else { 0 },
        },
    )
}

proptest! {
    /// More tokens, more context, a longer queue, more company: never sooner.
    #[test]
    fn predictions_are_sane_and_monotone(
        (prefill, decode) in (any_cost(), any_cost()),
        (tokens, cached, more) in (1_usize..40_000, 0_u32..40_000, 1_usize..5_000),
        (queued, running) in (0_usize..50_000, 0_u32..64),
        (share, step_tokens) in (0.0_f32..=1.0, 1_u32..4_096),
    ) {
        let speed = Speed { prefill, decode };
        let state = WorkerState { prefill_share: share, step_tokens, ..state(speed) };
        let seen = |queued: usize, running: u32| {
            let mut view = WorkerView::new(&state, Pending::default(), 0);
            if queued != 0 {
                view.add(need(queued).prompt(), 0);
            }
            (0..running).for_each(|_| view.add(need(300).generation(), 0));
            view
        };
        let ms = |view: &WorkerView, need: &Need, now_ms| {
            let (queue_ms, prefill_ms) = view.first_token_ms(need, now_ms);
            assert!(queue_ms.is_finite() && queue_ms >= 0.0, "{queue_ms}");
            assert!(prefill_ms.is_finite() && prefill_ms >= 0.0, "{prefill_ms}");
            queue_ms + prefill_ms
        };
        let no_less = |more: f32, less: f32| less <= more * (1.0 + 1e-4) + 1e-3;
        let (one, here) = (need(tokens), seen(queued, running));
        let base = ms(&here, &one, 0);
        prop_assert!(no_less(ms(&here, &need(tokens + more), 0), base));
        prop_assert!(no_less(ms(&seen(queued + more, running), &one, 0), base));
        prop_assert!(no_less(ms(&seen(queued, running + 1), &one, 0), base));
        prop_assert!(no_less(base, ms(&here, &one, 500)));
        let cached_tokens = cached.min(tokens as u32 - 1);
        let reused = Need { cached_tokens, ..one };
        prop_assert!(no_less(base, ms(&here, &reused, 0)));
        // As many tokens to compute, behind a longer context.
        let behind = Need { tokens: one.tokens + more as u32, cached_tokens: more as u32, ..one };
        prop_assert!(no_less(ms(&here, &behind, 0), base));
        prop_assert!(here.token_ms(&one).is_finite() && here.token_ms(&one) >= 0.0);
    }

    /// Whatever steps take: costs are finite and never negative.
    #[test]
    fn a_fit_never_leaves_its_bounds(
        steps in prop::collection::vec((0_usize..300, 0_usize..20_000, 0_usize..20, -3.0_f64..9.0), 1..200),
    ) {
        let mut fit = SpeedFit::default();
        for (count, start, generating, magnitude) in steps {
            let mut work = StepWork::default();
            if count != 0 {
                work.prompt(start, count);
            }
            (0..generating).for_each(|_| work.generating(start));
            fit.observe(&work, 10_f64.powf(magnitude));
            for cost in [fit.speed().prefill, fit.speed().decode] {
                for part in [cost.step_us, cost.item_us, cost.pair_us, cost.error] {
                    prop_assert!(part.is_finite() && part >= 0.0, "{cost:?}");
                }
            }
        }
    }
}
