//! Choice of tokens: exact where it must be, distributed as it must be elsewhere.

use model::sampling::{Choice, Chooser, Sampling, argmax, logprobs, sample, top, wanted};
use model::{RowOutput, Wanted};
use proptest::prelude::*;

fn choose(logits: &[f32], sampling: &Sampling, position: u64) -> u32 {
    sample(logits, sampling, &[], &[], position, &[])
}

/// Counts how often each token is chosen over many positions.
fn shares(logits: &[f32], sampling: &Sampling) -> Vec<f64> {
    let draws = 20_000;
    let mut counts = vec![0u32; logits.len()];
    for position in 0..draws {
        counts[choose(logits, sampling, position) as usize] += 1;
    }
    counts.into_iter().map(|count| f64::from(count) / draws as f64).collect()
}

fn assert_close(shares: &[f64], wanted: &[f64]) {
    for (share, wanted) in shares.iter().zip(wanted) {
        assert!((share - wanted).abs() < 0.015, "{shares:?}, not {wanted:?}");
    }
}

#[test]
fn temperature_zero_takes_the_most_likely_and_the_lower_of_equals() {
    let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
    assert_eq!(choose(&[1.0, 3.0, 3.0, f32::NAN], &greedy, 0), 1);
    assert_eq!(sample(&[1.0, 3.0, 3.0], &greedy, &[], &[], 0, &[1]), 2);
    assert_eq!(argmax(&[f32::NAN, f32::NEG_INFINITY, -1e30]), 2);
}

#[test]
fn shares_follow_the_probabilities() {
    let logits = [0.0, 1.0, f32::NEG_INFINITY, 2.0];
    let e = std::f64::consts::E;
    let sum = 1.0 + e + e * e;
    assert_close(&shares(&logits, &Sampling::default()), &[1.0 / sum, e / sum, 0.0, e * e / sum]);
    let cold = Sampling { temperature: 0.5, ..Sampling::default() };
    let sum = 1.0 + e.powi(2) + e.powi(4);
    assert_close(&shares(&logits, &cold), &[1.0 / sum, e.powi(2) / sum, 0.0, e.powi(4) / sum]);
}

#[test]
fn filters_keep_what_they_say() {
    // Probabilities 0.5, 0.3, 0.15, 0.05 at ids 2, 0, 3, 1.
    let logits = [0.3f32, 0.05, 0.5, 0.15].map(f32::ln);
    let with = |change: fn(&mut Sampling)| {
        let mut sampling = Sampling::default();
        change(&mut sampling);
        shares(&logits, &sampling)
    };
    assert_close(&with(|s| s.top_k = 2), &[0.375, 0.0, 0.625, 0.0]);
    assert_close(&with(|s| s.top_p = 0.75), &[0.375, 0.0, 0.625, 0.0]);
    assert_close(&with(|s| s.top_p = 0.81), &[0.3 / 0.95, 0.0, 0.5 / 0.95, 0.15 / 0.95]);
    assert_close(&with(|s| s.min_p = 0.5), &[0.375, 0.0, 0.625, 0.0]);
    assert_close(&with(|s| s.top_p = 0.0), &[0.0, 0.0, 1.0, 0.0]);
    // Nucleus within the two most likely.
    let both = with(|s| {
        s.top_k = 2;
        s.top_p = 0.6;
    });
    assert_close(&both, &[0.0, 0.0, 1.0, 0.0]);
}

#[test]
fn penalties_count_the_tokens() {
    let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
    let logits = [2.0, 1.5, -0.5, 1.0];
    let choose = |sampling: &Sampling, prompt: &[u32], output: &[u32]| {
        sample(&logits, sampling, prompt, output, 0, &[])
    };
    let presence = Sampling { presence_penalty: 0.6, ..greedy.clone() };
    assert_eq!(choose(&presence, &[0], &[]), 0);
    assert_eq!(choose(&presence, &[], &[0, 0]), 1);
    let frequency = Sampling { frequency_penalty: 0.3, ..greedy.clone() };
    assert_eq!(choose(&frequency, &[], &[0]), 0);
    assert_eq!(choose(&frequency, &[], &[0, 0]), 1);
    let repetition = Sampling { repetition_penalty: 2.5, ..greedy.clone() };
    assert_eq!(choose(&repetition, &[0], &[1]), 3);
    let bias = Sampling { logit_bias: vec![(2, 5.0), (99, 9.0)], ..greedy };
    assert_eq!(choose(&bias, &[], &[]), 2);
}

#[test]
fn the_generator_is_pinned() {
    // Anything that changes these numbers changes what a seed means to users.
    let logits: Vec<f32> = (0..1000).map(|id| (id % 7) as f32 * 0.1).collect();
    let sampling = Sampling { seed: 42, ..Sampling::default() };
    let chosen: Vec<u32> = (0..6).map(|position| choose(&logits, &sampling, position)).collect();
    assert_eq!(chosen, PINNED);
}

const PINNED: [u32; 6] = [343, 950, 446, 977, 285, 914];

#[test]
fn seeds_and_positions_are_independent() {
    let logits = [0.0f32; 1000];
    let chosen = |seed| -> Vec<u32> {
        let sampling = Sampling { seed, ..Sampling::default() };
        (0..200).map(|position| choose(&logits, &sampling, position)).collect()
    };
    let same = chosen(1).iter().zip(chosen(2)).filter(|(a, b)| **a == *b).count();
    assert!(same < 5, "{same} of 200 equal");
    let distinct: std::collections::BTreeSet<u32> = chosen(1).into_iter().collect();
    assert!(distinct.len() > 150, "{} distinct", distinct.len());
}

#[test]
fn log_probabilities_are_normalised_and_ranked() {
    let logits = [0.3f32, 0.05, 0.5, 0.15].map(|p: f32| p.ln() + 7.0);
    let (own, top) = logprobs(&logits, 1, 3);
    assert!((own - 0.05f32.ln()).abs() < 1e-5);
    assert_eq!(top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [2, 0, 3]);
    assert!((top[0].1 - 0.5f32.ln()).abs() < 1e-5);
    assert_eq!(logprobs(&logits, 2, 0).1, []);
    assert_eq!(logprobs(&[1.0, 1.0, 1.0], 0, 9).1.len(), 3);
}

proptest! {
    #[test]
    fn what_is_chosen_is_allowed(
        logits in prop::collection::vec(-20f32..20.0, 1..300),
        temperature in 0f32..2.0, top_p in 0f32..1.2, top_k in 0u32..20, min_p in 0f32..1.0,
        seed: u64, position: u64, banned in prop::collection::vec(0u32..300, 0..5),
    ) {
        let sampling = Sampling { temperature, top_p, top_k, min_p, seed, ..Sampling::default() };
        let chosen = sample(&logits, &sampling, &[], &[], position, &banned);
        let again = sample(&logits, &sampling, &[], &[], position, &banned);
        prop_assert_eq!(chosen, again);
        prop_assert!((chosen as usize) < logits.len());
        let all_banned = (0..logits.len() as u32).all(|id| banned.contains(&id));
        prop_assert!(!banned.contains(&chosen) || all_banned);
        if top_k > 0 {
            let better = (0..logits.len())
                .filter(|&id| !banned.contains(&(id as u32)))
                .filter(|&id| logits[id] > logits[chosen as usize])
                .count();
            prop_assert!(better < top_k as usize || all_banned);
        }
    }

    /// The candidates that [`wanted`] asks for decide as the whole row does, ties and all.
    #[test]
    fn candidates_choose_what_the_whole_row_chooses(
        // Few distinct values, signed zeros and minus infinity among them, so that ties abound.
        row in prop::collection::vec(
            prop_oneof![
                (-9i8..9).prop_map(|value| f32::from(value) / 2.0),
                Just(-0.0f32), Just(f32::NEG_INFINITY), -30f32..30.0,
            ],
            1..300,
        ),
        temperature in prop_oneof![Just(0.0f32), 0.01f32..3.0, Just(1e12f32)],
        top_p in 0f32..1.2, top_k in 1u32..80, min_p in prop_oneof![Just(0f32), 0f32..1.0],
        (seed, position) in (any::<u64>(), any::<u64>()),
        banned in prop::collection::vec(0u32..300, 0..5),
    ) {
        let sampling = Sampling { temperature, top_p, top_k, min_p, seed, ..Sampling::default() };
        match wanted(&sampling, banned.len(), false) {
            Wanted::Top(count) => {
                let of = Choice { sampling: &sampling, prompt: &[], output: &[], position, banned: &banned };
                let mut chooser = Chooser::default();
                let few = chooser.choose(RowOutput::Top(&top(&row, count)), &of);
                prop_assert_eq!(few, chooser.choose(RowOutput::Whole(&row), &of));
            }
            other => {
                prop_assert_eq!(other, Wanted::Last);
                prop_assert!(temperature > 0.0 && top_k > 64);
            }
        }
    }
}

#[test]
fn the_whole_row_is_wanted_where_candidates_do_not_decide() {
    let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
    assert_eq!(wanted(&greedy, 0, false), Wanted::Top(1));
    assert_eq!(wanted(&greedy, 3, false), Wanted::Top(4), "three of them may be banned");
    assert_eq!(wanted(&greedy, 500, false), Wanted::Last);
    assert_eq!(wanted(&greedy, 0, true), Wanted::Last, "log-probabilities need every logit");
    let ranked = Sampling { top_k: 40, ..Sampling::default() };
    assert_eq!(wanted(&ranked, 1, false), Wanted::Top(41));
    assert_eq!(wanted(&Sampling { top_k: 65, ..ranked.clone() }, 0, false), Wanted::Last);
    assert_eq!(wanted(&Sampling::default(), 0, false), Wanted::Last);
    for changed in [
        Sampling { logit_bias: vec![(1, 1.0)], ..ranked.clone() },
        Sampling { repetition_penalty: 1.1, ..ranked.clone() },
        Sampling { presence_penalty: 0.1, ..ranked.clone() },
        Sampling { frequency_penalty: 0.1, ..ranked },
    ] {
        assert_eq!(wanted(&changed, 0, false), Wanted::Last);
    }
}
