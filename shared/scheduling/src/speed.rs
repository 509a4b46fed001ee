//! Durations of a worker's steps, fitted online to its own steps.
//!
//! A step that computes prompts takes `a + b·tokens + c·pairs`, one that only generates
//! `a + b·sequences + c·pairs`, a pair being a token computed and an earlier one that it attends
//! to. Sequences that generate in a step of the first kind are taken off by what they cost in one
//! of the second. Each kind forgets by its own steps only, so that generating for an hour unlearns
//! nothing about prompts.

use protocol::{Speed, StepCost};

use self::fit::{Fit, Known};

mod fit;
mod solve;

/// Prompts: a step costs what 16 tokens cost, and a token twice as much behind 10,000 others,
/// until the steps say otherwise.
const PREFILL: Known = Known {
    scales: [1.0, 256.0, 256.0 * 1_024.0],
    main: 1,
    ratios: [0.06, 1.0, 0.1],
    spreads: [0.3, 1.0, 0.1],
};
/// Generating: sixteen sequences double what one costs, and so do some 20,000 tokens of context.
const DECODE: Known = Known {
    scales: [1.0, 16.0, 16.0 * 1_024.0],
    main: 0,
    ratios: [1.0, 1.0, 0.8],
    spreads: [1.0, 1.0, 0.8],
};
/// Least share of a step that remains for its prompt after the cost of generating is taken off.
const PROMPT_SHARE_MIN: f64 = 0.1;

/// The work of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepWork {
    /// Prompt tokens.
    pub prefill_tokens: u32,
    /// Pairs of these and earlier tokens.
    pub prefill_pairs: u64,
    /// Generating sequences.
    pub decode_sequences: u32,
    /// Tokens that these attend to.
    pub decode_pairs: u64,
}

impl StepWork {
    /// Adds `count` tokens of a prompt that follow its first `start`.
    pub fn prompt(&mut self, start: usize, count: usize) {
        self.prefill_tokens += count as u32;
        self.prefill_pairs += pairs(start as u64, count as u64);
    }

    /// Adds a sequence that generates after `context` tokens.
    pub fn generating(&mut self, context: usize) {
        self.decode_sequences += 1;
        self.decode_pairs += context as u64;
    }
}

/// Returns the number of pairs of each of `count` tokens that follow `start` others, and the tokens before it.
pub fn pairs(start: u64, count: u64) -> u64 {
    count.saturating_mul(start).saturating_add(count.saturating_mul(count) / 2)
}

/// A running fit of both kinds of steps.
#[derive(Clone, Debug)]
pub struct SpeedFit {
    prefill: Fit,
    decode: Fit,
}

impl Default for SpeedFit {
    fn default() -> Self {
        Self { prefill: Fit::new(&PREFILL), decode: Fit::new(&DECODE) }
    }
}

impl SpeedFit {
    /// Learns from one step. One that had nothing to do, or took no time, teaches nothing.
    pub fn observe(&mut self, work: &StepWork, step_us: f64) {
        let generating = [f64::from(work.decode_sequences), work.decode_pairs as f64];
        if work.prefill_tokens != 0 {
            let beside = self.decode.us([0.0, generating[0], generating[1]]);
            let prompts_us = (step_us - beside).max(PROMPT_SHARE_MIN * step_us);
            let tokens = f64::from(work.prefill_tokens);
            self.prefill.observe([1.0, tokens, work.prefill_pairs as f64], prompts_us);
        } else if work.decode_sequences != 0 {
            self.decode.observe([1.0, generating[0], generating[1]], step_us);
        }
    }

    /// Returns the present estimate.
    pub fn speed(&self) -> Speed {
        Speed { prefill: cost(&self.prefill), decode: cost(&self.decode) }
    }
}

fn cost(fit: &Fit) -> StepCost {
    let [step_us, item_us, pair_us] = fit.costs_us().map(|us| us as f32);
    StepCost { step_us, item_us, pair_us, error: fit.error() as f32, steps: fit.steps() }
}
