//! A model that computes nothing: its next token depends on all tokens so far, read back from the
//! pages that the loop gave it, so that a wrong page is a wrong answer.

#![allow(dead_code, reason = "every test takes what it needs")]

use engine::compute::ComputeError;
use engine::{Compute, SamplingState};
use model::{BatchSequence, StepOutput, Wanted};
use protocol::{
    Attempt, FileDigest, ModelFingerprint, RequestId, RequestKey, Sampling, Scope, Stopping,
};
use scheduling::planner::{Limits, Planner};
use scheduling::sequence::{NewSequence, Part};

/// Tokens it knows.
pub(crate) const VOCABULARY: usize = 101;

/// Bounds that make company, chunks and preemption likely.
pub(crate) const LIMITS: Limits = Limits {
    context_tokens: 256,
    step_tokens: 24,
    prefill_share: 0.5,
    sequences_max: 8,
    queue_max: 32,
    lease_ms: 60_000,
};

/// Keeps the tokens themselves as "KV".
pub(crate) struct Tape {
    /// The tokens in each page.
    pub(crate) pages: Vec<[u32; 16]>,
    /// Fails every step.
    pub(crate) fail: bool,
}

impl Tape {
    /// A tape with blank pages.
    pub(crate) fn new(pages: u32) -> Self {
        Self { pages: vec![[0; 16]; pages as usize], fail: false }
    }

    fn seen(&self, pages: &[u32], count: usize) -> impl Iterator<Item = u32> {
        (0..count).map(|at| self.pages[pages[at / 16] as usize][at % 16])
    }
}

/// Returns the token that follows some tokens.
pub(crate) fn next_token(tokens: impl Iterator<Item = u32>) -> u32 {
    1 + tokens.fold(17u32, |hash, token| hash.wrapping_mul(31).wrapping_add(token)) % 97
}

/// Returns the output of an undisturbed run.
pub(crate) fn alone(prompt: &[u32], max_tokens: usize) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    for _ in 0..max_tokens {
        tokens.push(next_token(tokens.iter().copied()));
    }
    tokens.split_off(prompt.len())
}

impl Compute for Tape {
    fn forward(
        &mut self,
        batch: &[BatchSequence<'_>],
        out: &mut StepOutput,
    ) -> Result<(), ComputeError> {
        out.clear(VOCABULARY);
        if self.fail {
            return Err(ComputeError("out of order".into()));
        }
        for row in batch {
            let mut rows = 0;
            for (offset, token) in row.tokens.iter().enumerate() {
                let at = row.position + offset;
                self.pages[row.pages[at / 16] as usize][at % 16] = *token;
                let last = offset + 1 == row.tokens.len();
                let best = next_token(self.seen(row.pages, at + 1));
                match row.logits {
                    Wanted::Top(count) if last => {
                        let others = (0..VOCABULARY as u32).filter(|token| *token != best);
                        let ranked = others.map(|token| (token, 0.0)).take(count - 1);
                        let all: Vec<_> = std::iter::once((best, 9.0)).chain(ranked).collect();
                        out.push_top(&all);
                    }
                    Wanted::Last if last => out.push_whole()[best as usize] = 9.0,
                    Wanted::All => out.push_whole()[best as usize] = 9.0,
                    Wanted::None | Wanted::Top(_) | Wanted::Last => continue,
                }
                rows += 1;
            }
            out.end_sequence(rows);
        }
        Ok(())
    }

    fn export_block(&mut self, page: u32, filled: u32) -> Result<Vec<u8>, ComputeError> {
        let tokens = self.pages[page as usize].iter().enumerate();
        let kept = tokens.map(|(at, token)| if at < filled as usize { *token } else { 0 });
        Ok(kept.flat_map(u32::to_le_bytes).collect())
    }

    fn import_block(&mut self, page: u32, bytes: &[u8]) -> Result<(), ComputeError> {
        for (token, bytes) in self.pages[page as usize].iter_mut().zip(bytes.chunks_exact(4)) {
            *token = u32::from_le_bytes(bytes.try_into().expect("four bytes"));
        }
        Ok(())
    }
}

/// A planner without sequences.
pub(crate) fn planner(limits: Limits, pages: u32) -> Planner {
    Planner::new(limits, ModelFingerprint::new(FileDigest([1; 32]), "tape"), pages)
}

/// A key.
pub(crate) fn key(id: u128) -> RequestKey {
    RequestKey { request: RequestId(id), attempt: Attempt(0) }
}

/// A sequence that nothing but its length ends.
pub(crate) fn sequence(id: u128, part: Part, prompt: Vec<u32>, max_tokens: u32) -> NewSequence {
    NewSequence {
        key: key(id),
        part,
        prompt,
        output: Vec::new(),
        stopping: Stopping { max_tokens, min_tokens: 0, stop_tokens: vec![0] },
        scope: Scope::shared(),
        score_prompt: false,
        deadline_ms: u64::MAX,
    }
}

/// Takes the most likely token.
pub(crate) fn greedy() -> SamplingState {
    SamplingState::new(Sampling { temperature: 0.0, ..Sampling::default() }, None, None)
}
