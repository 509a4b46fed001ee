//! Continuations of SmolLM2, and the likeliest tokens at each step, computed in double precision from
//! the same file.

use model::sampling::logprobs;
use serde::Deserialize;
use testbed::Extent;

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) rendered: String,
    pub(crate) prompt_ids: Vec<u32>,
    pub(crate) greedy_ids: Vec<u32>,
    pub(crate) steps: Vec<Step>,
}

#[derive(Deserialize)]
pub(crate) struct Step {
    /// Between the logits of the first and the second.
    pub(crate) margin: f32,
    /// Tokens and their log-probabilities.
    top: Vec<(u32, f32)>,
}

pub(crate) fn golden() -> Vec<Case> {
    let text = include_str!("../data/smollm2-135m-q4_1.json");
    let golden: Golden = serde_json::from_str(text).unwrap();
    assert_eq!(golden.cases.len(), 11);
    golden.cases
}

/// The cases to compute: the representative ones leave out the long prompt, which costs as much as
/// all others together.
pub(crate) fn golden_of_extent() -> Vec<Case> {
    let mut cases = golden();
    if Extent::from_env() == Extent::Representative {
        cases.retain(|case| case.prompt_ids.len() < 100);
    }
    cases
}

impl Case {
    /// Prompt and continuation, as far as the model sees it.
    pub(crate) fn tokens(&self) -> Vec<u32> {
        let seen = &self.greedy_ids[..self.greedy_ids.len() - 1];
        self.prompt_ids.iter().chain(seen).copied().collect()
    }

    /// Errors of the log-probabilities of all steps' likeliest tokens, given the logits after the
    /// prompt and after each token of the continuation.
    pub(crate) fn errors(&self, rows: &[Vec<f32>]) -> Vec<f32> {
        let mut errors = Vec::new();
        for (row, step) in rows.iter().zip(&self.steps) {
            for &(token, wanted) in &step.top {
                errors.push((logprobs(row, token, 0).0 - wanted).abs());
            }
        }
        errors
    }
}
