//! A model without arithmetic, and how long its steps take.

use protocol::{FileDigest, ModelFingerprint, TokenId};
use scheduling::planner::Row;

/// Microseconds of a step, per prompt token, per generating sequence.
const STEP_US: u64 = 800;
const PREFILL_TOKEN_US: u64 = 60;
const DECODE_SEQUENCE_US: u64 = 250;
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
    let mix = |hash: u32, token: &u32| hash.rotate_left(5).wrapping_mul(0x9e37_79b1) ^ token;
    tokens.iter().fold(tokens.len() as u32, mix) % VOCABULARY
}

/// What an undisturbed run generates.
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

pub(crate) fn step_us(rows: &[Row]) -> u64 {
    let row_us = |row: &Row| match row.count {
        1 => DECODE_SEQUENCE_US,
        count => count as u64 * PREFILL_TOKEN_US,
    };
    STEP_US + rows.iter().map(row_us).sum::<u64>()
}
