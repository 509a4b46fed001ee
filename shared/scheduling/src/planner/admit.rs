//! The entry of sequences: a slot in the queue, then pages, then the blocks that exist already.

use protocol::{BLOCK_TOKENS, Finish, Refusal, RequestKey, TokenId};

use super::{Admitted, Gate, Planner};
use crate::pool::Page;
use crate::sequence::{NewSequence, Phase, Sequence};

impl Planner {
    /// Returns the checks of a sequence that need no planner.
    pub fn gate(&self) -> Gate {
        self.gate
    }

    /// Takes a sequence into the queue or refuses it. A key that is here already is accepted again.
    pub fn submit(&mut self, new: NewSequence, now_ms: u64) -> Result<(), Refusal> {
        if self.sequences.contains_key(&new.key) {
            return Ok(());
        }
        if self.limits.queue_max <= self.waiting.len() {
            return Err(self.gate.full(self.waiting.len()));
        }
        self.enqueue(self.gate.check(new, now_ms)?);
        Ok(())
    }

    /// Takes a sequence that passed the gate and has a slot in the queue. Returns false if its key is
    /// here already.
    pub fn enqueue(&mut self, mut sequence: Sequence) -> bool {
        let key = sequence.key;
        if self.sequences.contains_key(&key) {
            return false;
        }
        sequence.age = self.submitted;
        self.submitted += 1;
        self.waiting.push_back(key);
        self.sequences.insert(key, sequence);
        true
    }

    /// Returns the number of sequences that wait for pages.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Gives pages to waiting sequences, in order, while there are enough.
    pub fn admit(&mut self) -> Vec<Admitted> {
        let mut admitted = Vec::new();
        while let Some(key) = self.waiting.front().copied() {
            let full = self.limits.sequences_max <= self.active.len();
            let Some(sequence) = self.sequences.get_mut(&key) else {
                self.waiting.pop_front();
                continue;
            };
            let reusable = sequence.reusable_blocks();
            let local = self.pool.longest_prefix(&sequence.names()[..reusable]);
            let from_cached = self.pool.cached_among(&sequence.names()[..local]);
            let fresh = sequence.pages_needed() - local;
            if full || self.pool.available() - from_cached < fresh {
                break;
            }
            self.waiting.pop_front();
            let shared: Vec<Page> =
                sequence.names()[..local].iter().filter_map(|name| self.pool.share(name)).collect();
            sequence.pages.extend(shared);
            sequence
                .pages
                .extend(std::iter::repeat_with(|| self.pool.take()).take(fresh).flatten());
            assert_eq!(sequence.pages.len(), local + fresh, "the pages were counted just now");
            sequence.computed = local * BLOCK_TOKENS;
            sequence.local_tokens = sequence.computed;
            sequence.stored_tokens = 0;
            let awaited = sequence.awaits_first_token();
            let mut missing = sequence.names()[local..reusable].to_vec();
            if awaited {
                missing.extend(sequence.tail_name());
            }
            let names = sequence.names().to_vec();
            sequence.phase = Phase::Fetching;
            let place = self.active.partition_point(|other| {
                self.sequences.get(other).is_some_and(|other| other.age < self.sequences[&key].age)
            });
            self.active.insert(place, key);
            admitted.push(Admitted { key, first_block: local, missing, names, awaited });
        }
        admitted
    }

    /// Returns the page for block `block` of a fetching sequence, or `None` if the block is no longer
    /// needed.
    pub fn page_for_import(&self, key: &RequestKey, block: usize) -> Option<Page> {
        let sequence = self.sequences.get(key).filter(|found| found.phase == Phase::Fetching)?;
        sequence.pages.get(block).copied()
    }

    /// Notes that a fetched block is in its page.
    pub fn imported(&mut self, key: &RequestKey, block: usize) {
        if let Some(sequence) = self.sequences.get(key)
            && let (Some(page), Some(name)) =
                (sequence.pages.get(block), sequence.names().get(block))
        {
            self.pool.name(*page, *name);
        }
    }

    /// Ends the fetching of a sequence: its first `tokens` tokens are in its pages. The rest is
    /// computed here.
    pub fn fetched(&mut self, key: &RequestKey, tokens: usize) {
        let Some(sequence) = self.sequences.get_mut(key) else { return };
        if sequence.phase != Phase::Fetching {
            return;
        }
        let awaited = sequence.awaits_first_token();
        let limit = sequence.tokens.len() - usize::from(!awaited);
        let tokens = tokens.min(limit).max(sequence.computed);
        sequence.stored_tokens = tokens - sequence.computed;
        sequence.computed = tokens;
        sequence.phase = if awaited { Phase::AwaitingFirstToken } else { Phase::Computing };
    }

    /// Takes the token that the prefill worker chose; the sequence goes on after it. Returns the
    /// finish reason if it ends right there.
    pub fn first_token(&mut self, key: &RequestKey, token: TokenId) -> Option<Finish> {
        let tokens_max = self.gate.tokens_max();
        let sequence = self.sequences.get_mut(key)?;
        if sequence.phase != Phase::AwaitingFirstToken {
            return None;
        }
        sequence.phase = Phase::Computing;
        sequence.push(token, tokens_max)
    }
}
