//! A model without arithmetic, and how long its steps take.

use protocol::{FileDigest, ModelFingerprint, TokenId};
use scheduling::planner::Row;
use scheduling::speed::StepWork;

/// Costs of a worker's steps, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Costs {
    /// Of any step.
    pub step_us: f64,
    /// Per prompt token.
    pub prefill_token_us: f64,
    /// Per generating sequence.
    pub decode_sequence_us: f64,
    /// Per pair of a token computed and an earlier one.
    pub pair_us: f64,
    /// A step takes up to this share more or less.
    pub noise: f64,
}

impl Default for Costs {
    fn default() -> Self {
        Self {
            step_us: 800.0,
            prefill_token_us: 60.0,
            decode_sequence_us: 250.0,
            pair_us: 0.0,
            noise: 0.0,
        }
    }
}

impl Costs {
    /// Returns the microseconds of a step that draws `chance`, 0 to 1.
    pub(crate) fn us(&self, work: &StepWork, chance: f64) -> u64 {
        let pairs = (work.prefill_pairs + work.decode_pairs) as f64;
        let us = self.step_us
            + f64::from(work.prefill_tokens) * self.prefill_token_us
            + f64::from(work.decode_sequences) * self.decode_sequence_us
            + pairs * self.pair_us;
        (us * (1.0 + self.noise * (2.0 * chance - 1.0))) as u64
    }
}

/// Tokens of the vocabulary; 0 ends a sequence.
const VOCABULARY: u32 = 997;

pub(crate) fn files() -> FileDigest {
    FileDigest([9; 32])
}

pub(crate) fn fingerprint() -> ModelFingerprint {
    ModelFingerprint::new(files(), "simulated")
}

/// The next token depends on every token so far and on nothing else, as sampling keyed by seed
/// and position does.
pub(crate) fn next_token(tokens: &[TokenId]) -> TokenId {
    let mixed = tokens.iter().fold(tokens.len() as u32, |hash: u32, token| {
        hash.rotate_left(5).wrapping_mul(0x9e37_79b1) ^ token
    });
    mixed % VOCABULARY
}

/// Returns the tokens that an undisturbed run generates.
pub(crate) fn undisturbed(prompt: &[TokenId], max_tokens: u32, stop: &[TokenId]) -> Vec<TokenId> {
    let mut tokens = prompt.to_vec();
    for _ in 0..max_tokens {
        let token = next_token(&tokens);
        tokens.push(token);
        if stop.contains(&token) {
            break;
        }
    }
    tokens.split_off(prompt.len())
}

pub(crate) fn work(rows: &[Row]) -> StepWork {
    let mut work = StepWork::default();
    for row in rows {
        match row.count {
            1 => work.generating(row.start),
            count => work.prompt(row.start, count),
        }
    }
    work
}
