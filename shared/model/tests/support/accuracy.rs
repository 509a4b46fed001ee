//! The distance of a model from the golden continuations and from the reference path.

use super::golden::{Case, golden_of_extent};
use super::{Fed, forward};
use model::sampling::{argmax, logprobs};
use model::{Model, Wanted};
use modelfile::ModelFile;
use std::fmt;

/// Tokens that are seen together.
pub(crate) const WINDOW: usize = 1024;
/// Of these, the number that goes in a step: their logits take 25 MB.
const CHUNK: usize = 128;

/// Figures of one implementation.
#[derive(Clone, Debug)]
pub(crate) struct Accuracy {
    pub(crate) device: String,
    /// Steps of golden continuations.
    pub(crate) steps: usize,
    /// Cosines between its logits and the reference path's: the smallest, and the middle one.
    pub(crate) cosine_least: f64,
    pub(crate) cosine_median: f64,
    /// Steps where it would choose another token although the golden margin exceeds 1.
    pub(crate) wrong: usize,
    /// Share of steps where it would choose the golden token.
    pub(crate) agreement: f64,
    /// Mean error of the log-probabilities of the likeliest tokens, against the golden ones.
    pub(crate) logprob_error: f64,
    /// Of a text, over windows of [`WINDOW`] tokens; how many were predicted.
    pub(crate) perplexity: f64,
    pub(crate) predicted: usize,
}

impl fmt::Display for Accuracy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{:<40} cosine {:.6} (least {:.6})  log-probability {:.4}  agreement {:.1} % of {} \
             ({} wrong)  perplexity {:.4} over {}",
            self.device,
            self.cosine_median,
            self.cosine_least,
            self.logprob_error,
            100.0 * self.agreement,
            self.steps,
            self.wrong,
            self.perplexity,
            self.predicted
        )
    }
}

/// The logits after the prompt and after each token of a golden continuation.
fn forced(model: &mut Model, case: &Case) -> Vec<Vec<f32>> {
    let tokens = case.tokens();
    let mut fed = Fed::new(&tokens, 0..tokens.len().div_ceil(16) as u32);
    let mut rows = fed.feed(model, case.prompt_ids.len(), Wanted::Last);
    rows.extend(fed.feed_rest(model));
    rows
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Computes all rows of logits of the golden cases.
pub(crate) fn golden_rows(model: &mut Model) -> Vec<Vec<Vec<f32>>> {
    golden_of_extent().iter().map(|case| forced(model, case)).collect()
}

/// Measures `model` against the golden continuations, against `reference`'s rows of them, and on
/// windows of `text`.
pub(crate) fn measure(model: &mut Model, reference: &[Vec<Vec<f32>>], text: &[u32]) -> Accuracy {
    let rows = golden_rows(model);
    measure_rows(model, &rows, reference, text)
}

/// Measures as [`measure`] does, given the model's own rows of the golden cases.
pub(crate) fn measure_rows(
    model: &mut Model,
    rows: &[Vec<Vec<f32>>],
    reference: &[Vec<Vec<f32>>],
    text: &[u32],
) -> Accuracy {
    let (mut cosines, mut errors, mut wrong, mut agreed) = (Vec::new(), Vec::new(), 0, 0);
    for ((case, rows), reference) in golden_of_extent().iter().zip(rows).zip(reference) {
        errors.extend(case.errors(rows));
        for (index, (row, step)) in rows.iter().zip(&case.steps).enumerate() {
            cosines.push(cosine(row, &reference[index]));
            let is_golden = argmax(row) == case.greedy_ids[index];
            agreed += usize::from(is_golden);
            wrong += usize::from(!is_golden && step.margin > 1.0);
        }
    }
    cosines.sort_by(f64::total_cmp);
    let losses: Vec<f64> = text.chunks(WINDOW).flat_map(|window| losses(model, window)).collect();
    let mean = losses.iter().sum::<f64>() / losses.len() as f64;
    Accuracy {
        device: model.device().name.clone(),
        steps: cosines.len(),
        cosine_least: cosines[0],
        cosine_median: cosines[cosines.len() / 2],
        wrong,
        agreement: agreed as f64 / cosines.len() as f64,
        logprob_error: errors.iter().copied().map(f64::from).sum::<f64>() / errors.len() as f64,
        perplexity: mean.exp(),
        predicted: losses.len(),
    }
}

/// Negative log-probability of each token of a window but the first.
fn losses(model: &mut Model, window: &[u32]) -> Vec<f64> {
    let pages: Vec<u32> = (0..window.len().div_ceil(16) as u32).collect();
    let mut losses = Vec::with_capacity(window.len());
    for start in (0..window.len() - 1).step_by(CHUNK) {
        let end = (start + CHUNK).min(window.len() - 1);
        let (tokens, pages) = (&window[start..end], &pages[..]);
        let sequence = model::BatchSequence { tokens, position: start, pages, logits: Wanted::All };
        let rows = forward(model, &[sequence]).remove(0);
        let predicted = rows.iter().zip(&window[start + 1..]);
        losses.extend(predicted.map(|(row, &next)| -f64::from(logprobs(row, next, 0).0)));
    }
    losses
}

/// This project's own prose as it once stood, as tokens.
pub(crate) fn text(file: &ModelFile) -> Vec<u32> {
    file.tokenizer().unwrap().encode(include_str!("../data/prose.txt"), false).unwrap()
}
