//! Chooses tokens from logits: pure, and the same for the same seed, position and tokens.
//!
//! The random number of a position comes from a counter-based generator: `splitmix64` keyed by the
//! seed and read at the position. Penalties are recomputed from the tokens. So whoever continues a
//! sequence chooses what anybody else would have chosen.

use std::collections::{BTreeMap, BTreeSet};

pub use protocol::Sampling;
use protocol::SplitMix64;

pub use self::weights::argmax;
use self::weights::{Scale, Weights};
use crate::output::{Candidate, RowOutput, Wanted};

/// Longest list of candidates worth asking the head for; beyond it the whole row is cheaper to
/// handle than to rank.
const CANDIDATES_MAX: usize = 128;
/// Largest `top_k` that is served from candidates.
const TOP_K_MAX: u32 = 64;

mod weights;

/// A token that may be chosen.
#[derive(Clone, Copy, Debug)]
struct Weighted {
    id: u32,
    logit: f32,
    /// Its probability times an unknown constant.
    weight: f64,
}

/// All that a choice depends on beside the logits.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// Parameters of the choice.
    pub sampling: &'a Sampling,
    /// The sequence's prompt.
    pub prompt: &'a [u32],
    /// Tokens generated so far.
    pub output: &'a [u32],
    /// Place of the chosen token in the sequence: reads the random numbers.
    pub position: u64,
    /// Tokens that are never chosen.
    pub banned: &'a [u32],
}

/// Returns the results of the head that a choice with `banned` banned tokens needs; `whole` if the
/// whole row is needed anyway, for log-probabilities.
///
/// Candidates suffice where the order of the raw logits decides: [`Chooser::choose`] takes the same
/// token from them as from the whole row.
pub fn wanted(sampling: &Sampling, banned: usize, whole: bool) -> Wanted {
    let greedy = sampling.temperature <= 0.0;
    let needed = match (greedy, sampling.top_k) {
        (true, _) => 1,
        (false, top_k @ 1..=TOP_K_MAX) => top_k as usize,
        (false, _) => return Wanted::Last,
    };
    match needed.saturating_add(banned) {
        count if !whole && !reorders(sampling) && count <= CANDIDATES_MAX => Wanted::Top(count),
        _ => Wanted::Last,
    }
}

/// Chooses tokens; keeps its working memory, so that it stops allocating once that has grown.
#[derive(Clone, Debug, Default)]
pub struct Chooser {
    logits: Vec<f32>,
    weights: Weights,
    kept: Vec<Weighted>,
}

impl Chooser {
    /// Chooses the token that follows, from the candidates of [`wanted`] or from the whole row.
    ///
    /// The filters apply one after the other: `min_p`, `top_k`, then `top_p` over what is left.
    /// Temperature 0 takes the most likely token; ties go to the lower id.
    pub fn choose(&mut self, row: RowOutput<'_>, of: &Choice<'_>) -> u32 {
        let logits = match row {
            RowOutput::Top(candidates) => return self.among(candidates, of),
            RowOutput::Whole(logits) => logits,
        };
        if of.banned.is_empty() && !reorders(of.sampling) {
            return self.choose_whole(logits, of);
        }
        let mut changed = std::mem::take(&mut self.logits);
        changed.clear();
        changed.extend_from_slice(logits);
        penalise(&mut changed, of.sampling, of.prompt, of.output);
        for &(token, bias) in &of.sampling.logit_bias {
            change(&mut changed, [token], |logit, _| logit + bias);
        }
        change(&mut changed, of.banned.iter().copied(), |_, _| f32::NEG_INFINITY);
        let chosen = self.choose_whole(&changed, of);
        self.logits = changed;
        chosen
    }

    fn among(&mut self, candidates: &[Candidate], of: &Choice<'_>) -> u32 {
        let allowed = candidates
            .iter()
            .filter(|(token, logit)| *logit > f32::NEG_INFINITY && !of.banned.contains(token));
        let mut candidates = allowed.copied().peekable();
        let Some(best) = candidates.peek().copied() else { return 0 };
        if of.sampling.temperature <= 0.0 {
            return best.0;
        }
        self.draw_ranked(candidates, best, of)
    }

    fn choose_whole(&mut self, logits: &[f32], of: &Choice<'_>) -> u32 {
        let sampling = of.sampling;
        let best = argmax(logits);
        let most = logits[best as usize];
        if sampling.temperature <= 0.0 || most == f32::NEG_INFINITY {
            return best;
        }
        if sampling.top_k != 0 {
            return self.draw_ranked((0u32..).zip(logits.iter().copied()), (best, most), of);
        }
        self.weights.weigh(logits, scale(sampling, most));
        let at = uniform(sampling.seed, of.position);
        let top_p = f64::from(sampling.top_p);
        if top_p >= 1.0 {
            return self.weights.draw(at).unwrap_or(best);
        }
        // A token that weighs less than an even share of the weight outside the nucleus is never in it.
        let total = self.weights.total();
        let least = (1.0 - top_p) * total / logits.len() as f64;
        let heavy = self.weights.at_least(least);
        self.kept.clear();
        self.kept.extend(heavy.map(|(id, weight)| Weighted {
            id,
            logit: logits[id as usize],
            weight: f64::from(weight),
        }));
        keep_nucleus(&mut self.kept, top_p * total);
        draw(&self.kept, at).unwrap_or(best)
    }

    /// Draws among the `top_k` most likely.
    fn draw_ranked(
        &mut self,
        candidates: impl Iterator<Item = Candidate>,
        best: Candidate,
        of: &Choice<'_>,
    ) -> u32 {
        let sampling = of.sampling;
        let scale = scale(sampling, best.1);
        let weighted = candidates.map(|(id, logit)| Weighted {
            id,
            logit,
            weight: f64::from(scale.weight(logit)),
        });
        self.kept.clear();
        self.kept.extend(weighted.filter(|one| one.weight > 0.0));
        keep_most_likely(&mut self.kept, sampling.top_k as usize);
        let top_p = f64::from(sampling.top_p);
        if top_p < 1.0 {
            let total: f64 = self.kept.iter().map(|one| one.weight).sum();
            keep_nucleus(&mut self.kept, top_p * total);
        }
        draw(&self.kept, uniform(sampling.seed, of.position)).unwrap_or(best.0)
    }
}

fn scale(sampling: &Sampling, top: f32) -> Scale {
    Scale { top, per_temperature: sampling.temperature.recip(), floor: sampling.min_p }
}

/// True when something moves logits before the choice.
fn reorders(sampling: &Sampling) -> bool {
    !sampling.logit_bias.is_empty()
        || sampling.repetition_penalty != 1.0
        || sampling.presence_penalty != 0.0
        || sampling.frequency_penalty != 0.0
}

/// Chooses the token at `position` of a sequence, which is `prompt` followed by `output`: see
/// [`Chooser::choose`].
#[allow(clippy::too_many_arguments, reason = "all that a choice depends on, and nothing else")]
pub fn sample(
    logits: &[f32],
    sampling: &Sampling,
    prompt: &[u32],
    output: &[u32],
    position: u64,
    banned: &[u32],
) -> u32 {
    let of = Choice { sampling, prompt, output, position, banned };
    Chooser::default().choose(RowOutput::Whole(logits), &of)
}

/// Returns the natural log-probability of `token` under the raw logits at temperature 1, and the
/// `top` most likely tokens with theirs, most likely first, ties by id.
pub fn logprobs(logits: &[f32], token: u32, top: usize) -> (f32, Vec<(u32, f32)>) {
    let best = f64::from(logits[argmax(logits) as usize]);
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - best).exp()).sum();
    let log_sum = best + sum.ln();
    let logprob = |logit: f32| (f64::from(logit) - log_sum) as f32;
    let own = logits.get(token as usize).map_or(f32::NEG_INFINITY, |&logit| logprob(logit));
    let best = if top == 0 { Vec::new() } else { self::top(logits, top) };
    (own, best.into_iter().map(|(id, logit)| (id, logprob(logit))).collect())
}

/// Returns the `count` most likely tokens with their logits, falling, ties by id.
pub fn top(logits: &[f32], count: usize) -> Vec<Candidate> {
    if count == 1 {
        let best = argmax(logits);
        return vec![(best, logits[best as usize])];
    }
    let ids = (0u32..).zip(logits);
    let mut all: Vec<Weighted> =
        ids.map(|(id, &logit)| Weighted { id, logit, weight: 0.0 }).collect();
    keep_most_likely(&mut all, count);
    all.into_iter().map(|one| (one.id, one.logit)).collect()
}

/// Draws a number within `0..1` for one position of one seed.
fn uniform(seed: u64, position: u64) -> f64 {
    SplitMix64::new(SplitMix64::new(seed).next_u64() ^ position).unit()
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

/// Orders most likely first, ties by id, as [`argmax`] does: zero has no sign, and a NaN is
/// least. Logits rather than weights decide, since different logits may round to one weight.
fn by_likelihood(a: &Weighted, b: &Weighted) -> std::cmp::Ordering {
    let rank = |logit: f32| if logit.is_nan() { f32::NEG_INFINITY } else { logit + 0.0 };
    rank(b.logit).total_cmp(&rank(a.logit)).then(a.id.cmp(&b.id))
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

/// Keeps the smallest set of most likely tokens that weighs at least `wanted`, ranked.
fn keep_nucleus(kept: &mut Vec<Weighted>, wanted: f64) {
    let weight = |part: &[Weighted]| part.iter().map(|one| one.weight).sum::<f64>();
    // Tokens before `from` are in, those from `to` on are out; halving finds the border.
    let (mut from, mut to, mut sum) = (0, kept.len(), 0.0);
    while to - from > 64 {
        let half = (to - from) / 2;
        kept[from..to].select_nth_unstable_by(half, by_likelihood);
        let more = weight(&kept[from..from + half]);
        if sum + more >= wanted {
            to = from + half;
        } else {
            (from, sum) = (from + half, sum + more);
        }
    }
    kept[from..to].sort_unstable_by(by_likelihood);
    let reached = kept[from..to].iter().position(|one| {
        sum += one.weight;
        sum >= wanted
    });
    kept.truncate(reached.map_or(to, |last| from + last + 1));
    kept[..from.min(to)].sort_unstable_by(by_likelihood);
}

/// Returns the token at the share `at` of the total weight.
fn draw(kept: &[Weighted], at: f64) -> Option<u32> {
    let mut left = at * kept.iter().map(|one| one.weight).sum::<f64>();
    for one in kept {
        left -= one.weight;
        if left < 0.0 {
            return Some(one.id);
        }
    }
    kept.last().map(|one| one.id)
}
