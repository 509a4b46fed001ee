//! The checks of a sequence that need no planner, and therefore no wait.

use protocol::{BLOCK_TOKENS, ErrorClass, ModelFingerprint, Refusal};

use super::Limits;
use crate::sequence::{NewSequence, Sequence};

/// The bounds of a worker that do not change while it runs.
#[derive(Clone, Copy, Debug)]
pub struct Gate {
    limits: Limits,
    fingerprint: ModelFingerprint,
    pages: usize,
}

impl Gate {
    pub(super) fn new(limits: Limits, fingerprint: ModelFingerprint, pages: u32) -> Self {
        Self { limits, fingerprint, pages: pages as usize }
    }

    /// Makes a sequence that this worker can run, its blocks named, or refuses it.
    pub fn check(&self, new: NewSequence, now_ms: u64) -> Result<Sequence, Refusal> {
        let tokens = new.prompt.len() + new.output.len();
        if new.deadline_ms <= now_ms {
            return Err(Refusal::new(ErrorClass::Deadline, "the deadline has passed"));
        }
        if self.limits.context_tokens < tokens {
            let context = self.limits.context_tokens;
            let message = format!("{tokens} tokens do not fit into a context of {context}");
            return Err(Refusal::new(ErrorClass::Invalid, message));
        }
        let pages = (tokens + 1).div_ceil(BLOCK_TOKENS);
        if self.pages < pages {
            let total = self.pages;
            let message = format!("{pages} KV pages needed, this worker has {total}");
            return Err(Refusal::new(ErrorClass::Invalid, message));
        }
        let mut sequence = Sequence::new(new, self.fingerprint, self.lease_until_ms(now_ms));
        sequence.reserve(self.tokens_max());
        Ok(sequence)
    }

    /// Returns the length at which every sequence ends at the latest: the model's context, or all pages of this worker.
    /// Beyond them it could neither go on nor come back.
    pub fn tokens_max(&self) -> usize {
        self.limits.context_tokens.min(self.pages * BLOCK_TOKENS)
    }

    /// Returns the end of a lease that is renewed now.
    pub fn lease_until_ms(&self, now_ms: u64) -> u64 {
        now_ms + self.limits.lease_ms
    }

    /// Returns the most tokens of a step.
    pub fn step_tokens(&self) -> usize {
        self.limits.step_tokens
    }

    /// Returns how many sequences may wait for pages.
    pub fn queue_max(&self) -> usize {
        self.limits.queue_max
    }

    /// Returns the refusal of a worker where `waiting` sequences wait already.
    pub fn full(&self, waiting: usize) -> Refusal {
        Refusal::new(ErrorClass::Overloaded, format!("{waiting} sequences are waiting"))
    }
}
