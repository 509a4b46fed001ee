//! Chooses tokens from logits: pure, and the same for the same seed, position and tokens.
//!
//! The random number of a position comes from a counter-based generator: `splitmix64` keyed by the
//! seed and read at the position. Penalties are recomputed from the tokens. So whoever continues a
//! sequence chooses what anybody else would have chosen.

use std::collections::{BTreeMap, BTreeSet};

pub use protocol::Sampling;

/// A token and its probability times an unknown constant.
type Weighted = (u32, f64);

/// Chooses the token at `position` of a sequence, which is `prompt` followed by `output`.
///
/// Tokens of `banned` are never chosen. The filters apply one after the other: `min_p`, `top_k`,
/// then `top_p` over what is left. Temperature 0 takes the most likely token; ties go to the lower
/// id.
#[allow(clippy::too_many_arguments, reason = "all that a choice depends on, and nothing else")]
pub fn sample(
    logits: &[f32],
    sampling: &Sampling,
    prompt: &[u32],
    output: &[u32],
    position: u64,
    banned: &[u32],
) -> u32 {
    let mut logits = logits.to_vec();
    penalise(&mut logits, sampling, prompt, output);
    for &(token, bias) in &sampling.logit_bias {
        change(&mut logits, [token], |logit, _| logit + bias);
    }
    change(&mut logits, banned.iter().copied(), |_, _| f32::NEG_INFINITY);
    let best = argmax(&logits);
    if sampling.temperature <= 0.0 || logits[best as usize] == f32::NEG_INFINITY {
        return best;
    }
    let top = f64::from(logits[best as usize]);
    let temperature = f64::from(sampling.temperature);
    let floor = f64::from(sampling.min_p);
    let weight = |logit: f32| ((f64::from(logit) - top) / temperature).exp();
    let mut kept: Vec<Weighted> = (0u32..)
        .zip(&logits)
        .map(|(id, &logit)| (id, weight(logit)))
        .filter(|&(_, weight)| weight > 0.0 && weight >= floor)
        .collect();
    keep_most_likely(&mut kept, sampling.top_k as usize);
    keep_nucleus(&mut kept, f64::from(sampling.top_p));
    draw(&kept, uniform(sampling.seed, position)).unwrap_or(best)
}

/// Natural log-probability of `token` under the raw logits at temperature 1, and the `top` most
/// likely tokens with theirs, most likely first, ties by id.
pub fn logprobs(logits: &[f32], token: u32, top: usize) -> (f32, Vec<(u32, f32)>) {
    let best = f64::from(logits[argmax(logits) as usize]);
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - best).exp()).sum();
    let log_sum = best + sum.ln();
    let logprob = |logit: f32| (f64::from(logit) - log_sum) as f32;
    let own = logits.get(token as usize).map_or(f32::NEG_INFINITY, |&logit| logprob(logit));
    let mut weighted: Vec<Weighted> =
        (0u32..).zip(logits).map(|(id, &logit)| (id, f64::from(logit))).collect();
    if top == 0 {
        weighted.clear();
    }
    keep_most_likely(&mut weighted, top);
    let ranked = weighted.into_iter().map(|(id, logit)| (id, logprob(logit as f32)));
    (own, ranked.collect())
}

/// The `count` most likely tokens with their logits, falling, ties by id.
pub fn top(logits: &[f32], count: usize) -> Vec<crate::Candidate> {
    if count == 1 {
        let best = argmax(logits);
        return vec![(best, logits[best as usize])];
    }
    let mut weighted: Vec<Weighted> =
        (0u32..).zip(logits).map(|(id, &logit)| (id, f64::from(logit))).collect();
    keep_most_likely(&mut weighted, count);
    weighted.into_iter().map(|(id, logit)| (id, logit as f32)).collect()
}

/// The index of the largest value, the lowest of equals; values that are no number count as least.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    let mut most = f32::NEG_INFINITY;
    for (id, &logit) in (0u32..).zip(logits) {
        if logit > most {
            (best, most) = (id, logit);
        }
    }
    best
}

/// A number within `0..1` for one position of one seed.
fn uniform(seed: u64, position: u64) -> f64 {
    let mixed = splitmix64(splitmix64(seed) ^ position);
    (mixed >> 11) as f64 / (1u64 << 53) as f64
}

fn splitmix64(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Applies the penalties for tokens that the sequence already has.
fn penalise(logits: &mut [f32], sampling: &Sampling, prompt: &[u32], output: &[u32]) {
    if sampling.repetition_penalty != 1.0 {
        let seen: BTreeSet<u32> = prompt.iter().chain(output).copied().collect();
        change(logits, seen, |logit, _| {
            if logit > 0.0 {
                logit / sampling.repetition_penalty
            } else {
                logit * sampling.repetition_penalty
            }
        });
    }
    if sampling.presence_penalty != 0.0 || sampling.frequency_penalty != 0.0 {
        let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
        for &token in output {
            *counts.entry(token).or_default() += 1;
        }
        change(logits, counts.keys().copied(), |logit, token| {
            let count = counts[&token] as f32;
            logit - sampling.presence_penalty - sampling.frequency_penalty * count
        });
    }
}

fn change(
    logits: &mut [f32],
    tokens: impl IntoIterator<Item = u32>,
    new: impl Fn(f32, u32) -> f32,
) {
    for token in tokens {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit = new(*logit, token);
        }
    }
}

/// Most likely first, ties by id.
fn by_likelihood(a: &Weighted, b: &Weighted) -> std::cmp::Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// Keeps the `count` most likely, ranked; 0 keeps all, as they are.
fn keep_most_likely(kept: &mut Vec<Weighted>, count: usize) {
    if count == 0 {
        return;
    }
    if count < kept.len() {
        kept.select_nth_unstable_by(count - 1, by_likelihood);
        kept.truncate(count);
    }
    kept.sort_unstable_by(by_likelihood);
}

/// Keeps the smallest set of most likely tokens that holds at least the share `top_p`.
fn keep_nucleus(kept: &mut Vec<Weighted>, top_p: f64) {
    if top_p >= 1.0 {
        return;
    }
    let wanted = top_p * kept.iter().map(|(_, weight)| weight).sum::<f64>();
    // The nucleus is nearly always small: rank few, and more only if they do not suffice.
    let mut ranked = 64.min(kept.len());
    loop {
        if ranked < kept.len() {
            kept.select_nth_unstable_by(ranked - 1, by_likelihood);
        }
        kept[..ranked].sort_unstable_by(by_likelihood);
        let mut sum = 0.0;
        let reached = kept[..ranked].iter().position(|(_, weight)| {
            sum += weight;
            sum >= wanted
        });
        if let Some(last) = reached {
            return kept.truncate(last + 1);
        }
        if ranked == kept.len() {
            return;
        }
        ranked = (ranked * 8).min(kept.len());
    }
}

/// The token at the share `at` of the total weight.
fn draw(kept: &[Weighted], at: f64) -> Option<u32> {
    let mut left = at * kept.iter().map(|(_, weight)| weight).sum::<f64>();
    for &(id, weight) in kept {
        left -= weight;
        if left < 0.0 {
            return Some(id);
        }
    }
    kept.last().map(|&(id, _)| id)
}
