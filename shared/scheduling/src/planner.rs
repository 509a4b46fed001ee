//! Chooses what one engine step computes: decode rows first, then prefill chunks within a token
//! budget, newcomers at every step, the youngest preempted when pages run out (continuous batching
//! after Orca, paged KV after vLLM, chunked prefill after Sarathi-Serve).
//!
//! Owns no clock, channel or tensor. The shell submits sequences, runs the rows that
//! [`Planner::plan`] returns and reports back with [`Planner::commit`].

use std::collections::{BTreeMap, VecDeque};

use protocol::{
    BLOCK_TOKENS, BlockHash, ErrorClass, Finish, ModelFingerprint, PoolState, Refusal, RequestKey,
    TokenId,
};

pub use self::load::Load;
use crate::pool::{BlockPool, Page};
use crate::sequence::{NewSequence, Part, Phase, Sequence};

mod load;

/// Bounds of one worker.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest sequence.
    pub context_tokens: usize,
    /// Tokens of one step, decode rows included.
    pub step_tokens: usize,
    /// Share of a step left to prefill while sequences generate, 0 to 1.
    pub prefill_share: f32,
    /// Sequences that hold pages at the same time.
    pub sequences_max: usize,
    /// Sequences that wait for pages.
    pub queue_max: usize,
    /// How long a sequence lives without being asked for.
    pub lease_ms: u64,
}

/// Which logits a row needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits {
    /// None: more of the prompt follows.
    None,
    /// Those of the last token: one is chosen.
    Last,
    /// Those of every token.
    All,
}

/// One sequence's part of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Whose.
    pub key: RequestKey,
    /// Index of the first token computed.
    pub start: usize,
    /// How many.
    pub count: usize,
    /// What is needed of the result.
    pub logits: Logits,
}

/// A sequence that got its pages; its stored blocks are to be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// Whose.
    pub key: RequestKey,
    /// Index of the first block that is not here.
    pub first_block: usize,
    /// Names of that block and the following ones; the last may be a tail.
    pub missing: Vec<BlockHash>,
    /// True when they are being computed by another worker, so that waiting for them makes sense.
    pub awaited: bool,
}

/// What a step did to a sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Full blocks that became complete: index, name, page.
    pub sealed: Vec<(usize, BlockHash, Page)>,
    /// The partly filled last block, when another worker needs it: name, page, tokens in it.
    pub tail: Option<(BlockHash, Page, usize)>,
    /// Index in the output of the token that was chosen.
    pub index: Option<u32>,
    /// Why the sequence ended, if it did.
    pub finish: Option<Finish>,
    /// True when this worker is done with it: [`Planner::retire`] it after exporting its blocks.
    pub done: bool,
}

/// A sequence taken out by [`Planner::expire`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expired {
    /// Whose.
    pub key: RequestKey,
    /// Why.
    pub refusal: Refusal,
}

/// All sequences of one worker.
#[derive(Clone, Debug)]
pub struct Planner {
    limits: Limits,
    fingerprint: ModelFingerprint,
    pool: BlockPool,
    sequences: BTreeMap<RequestKey, Sequence>,
    waiting: VecDeque<RequestKey>,
    /// Everything that holds pages, oldest first.
    active: Vec<RequestKey>,
    submitted: u64,
    preempted: u64,
}

impl Planner {
    /// A worker without sequences.
    pub fn new(limits: Limits, fingerprint: ModelFingerprint, pages: u32) -> Self {
        Self {
            limits,
            fingerprint,
            pool: BlockPool::new(pages),
            sequences: BTreeMap::new(),
            waiting: VecDeque::new(),
            active: Vec::new(),
            submitted: 0,
            preempted: 0,
        }
    }

    /// Takes a sequence into the queue, or says why not. The same key again is accepted again.
    pub fn submit(&mut self, new: NewSequence, now_ms: u64) -> Result<(), Refusal> {
        if self.sequences.contains_key(&new.key) {
            return Ok(());
        }
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
        if self.pool.total() < pages {
            let total = self.pool.total();
            let message = format!("{pages} KV pages needed, this worker has {total}");
            return Err(Refusal::new(ErrorClass::Invalid, message));
        }
        if self.limits.queue_max <= self.waiting.len() {
            let message = format!("{} sequences are waiting", self.waiting.len());
            return Err(Refusal::new(ErrorClass::Overloaded, message));
        }
        let lease_until_ms = now_ms + self.limits.lease_ms;
        let sequence = Sequence::new(new, self.fingerprint, self.submitted, lease_until_ms);
        self.submitted += 1;
        self.waiting.push_back(sequence.key);
        self.sequences.insert(sequence.key, sequence);
        Ok(())
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
            sequence.phase = Phase::Fetching;
            let place = self.active.partition_point(|other| {
                self.sequences.get(other).is_some_and(|other| other.age < self.sequences[&key].age)
            });
            self.active.insert(place, key);
            admitted.push(Admitted { key, first_block: local, missing, awaited });
        }
        admitted
    }

    /// The page that block `block` of a fetching sequence goes into; `None` when it is not wanted
    /// any more.
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

    /// The token that the prefill worker chose; the sequence goes on after it. Gives the reason
    /// when it ends right there.
    pub fn first_token(&mut self, key: &RequestKey, token: TokenId) -> Option<Finish> {
        let context_tokens = self.limits.context_tokens;
        let sequence = self.sequences.get_mut(key)?;
        if sequence.phase != Phase::AwaitingFirstToken {
            return None;
        }
        sequence.phase = Phase::Computing;
        sequence.push(token, context_tokens)
    }

    /// The rows of the next step. Never more than `step_tokens` tokens, except that every
    /// generating sequence gets its row.
    pub fn plan(&mut self) -> Vec<Row> {
        let mut rows = self.decode_rows();
        let budget = match rows.len() {
            0 => self.limits.step_tokens,
            decoding => {
                let share = (self.limits.step_tokens as f32 * self.limits.prefill_share) as usize;
                share.max(BLOCK_TOKENS).min(self.limits.step_tokens.saturating_sub(decoding))
            }
        };
        self.prefill_rows(budget, &mut rows);
        rows
    }

    fn decode_rows(&mut self) -> Vec<Row> {
        let mut rows = Vec::new();
        for key in self.active.clone() {
            let Some(sequence) = self.sequences.get(&key) else { continue };
            let generating = sequence.phase == Phase::Computing && sequence.uncomputed() == 1;
            // Scoring the last prompt token is prefill work, and so is the last token of a chunk.
            if !generating || sequence.output().is_empty() {
                continue;
            }
            if self.has_room_for_next(&key) {
                let start = self.sequences[&key].computed;
                rows.push(Row { key, start, count: 1, logits: Logits::Last });
            }
        }
        rows.retain(|row| self.sequences[&row.key].phase == Phase::Computing);
        rows
    }

    /// Sees that the sequence's next token has a page, taking one from a younger sequence if need
    /// be. False when the sequence itself had to give way.
    fn has_room_for_next(&mut self, key: &RequestKey) -> bool {
        loop {
            let Some(sequence) = self.sequences.get_mut(key) else { return false };
            if sequence.phase != Phase::Computing {
                return false;
            }
            if sequence.computed < sequence.pages.len() * BLOCK_TOKENS {
                return true;
            }
            if let Some(page) = self.pool.take() {
                sequence.pages.push(page);
                return true;
            }
            let youngest = self.active.iter().rev().find(|other| {
                self.sequences.get(*other).is_some_and(|other| other.phase == Phase::Computing)
            });
            let Some(victim) = youngest.copied() else { return false };
            self.preempt(&victim);
            if victim == *key {
                return false;
            }
        }
    }

    /// Takes a sequence's pages; it waits first in line and later continues from its tokens.
    fn preempt(&mut self, key: &RequestKey) {
        let Some(sequence) = self.sequences.get_mut(key) else { return };
        for page in sequence.pages.drain(..) {
            self.pool.release(page);
        }
        sequence.computed = 0;
        sequence.phase = Phase::Waiting;
        sequence.preemptions += 1;
        self.preempted += 1;
        self.active.retain(|other| other != key);
        self.waiting.push_front(*key);
    }

    fn prefill_rows(&mut self, mut budget: usize, rows: &mut Vec<Row>) {
        for key in &self.active {
            let Some(sequence) = self.sequences.get(key) else { continue };
            let in_prompt = sequence.phase == Phase::Computing
                && (1 < sequence.uncomputed() || sequence.output().is_empty());
            if budget == 0 || !in_prompt || sequence.uncomputed() == 0 {
                continue;
            }
            let count = sequence.uncomputed().min(budget);
            budget -= count;
            let last = count == sequence.uncomputed();
            let logits = match (sequence.score_prompt, last) {
                (true, _) if sequence.computed < sequence.prompt_tokens => Logits::All,
                (_, true) => Logits::Last,
                (_, false) => Logits::None,
            };
            rows.push(Row { key: *key, start: sequence.computed, count, logits });
        }
    }

    /// Books a computed row and the token chosen from its last logits, if one was.
    /// `None` when the sequence was given up while the step ran.
    pub fn commit(&mut self, row: &Row, chosen: Option<TokenId>) -> Option<Outcome> {
        let context_tokens = self.limits.context_tokens;
        let sequence = self.sequences.get_mut(&row.key)?;
        if sequence.phase != Phase::Computing || sequence.computed != row.start {
            return None;
        }
        let first_open = sequence.computed / BLOCK_TOKENS;
        sequence.computed += row.count;
        let mut outcome = Outcome::default();
        for block in first_open..sequence.computed / BLOCK_TOKENS {
            let (name, page) = (sequence.names()[block], sequence.pages[block]);
            self.pool.name(page, name);
            outcome.sealed.push((block, name, page));
        }
        if sequence.uncomputed() != 0 {
            return Some(outcome);
        }
        if let Some(token) = chosen {
            let tail_tokens = sequence.computed % BLOCK_TOKENS;
            if sequence.part == Part::Prefill
                && let Some(name) = sequence.tail_name()
            {
                let page = sequence.pages[sequence.computed / BLOCK_TOKENS];
                outcome.tail = Some((name, page, tail_tokens));
            }
            outcome.index = Some(sequence.output().len() as u32);
            outcome.finish = sequence.push(token, context_tokens);
        } else if sequence.wants_no_token() {
            outcome.finish = Some(Finish::Length);
        }
        outcome.done = outcome.finish.is_some() || sequence.part == Part::Prefill;
        if outcome.done {
            sequence.phase = Phase::Ended;
        }
        Some(outcome)
    }

    /// Lets go of a sequence and its pages: it ended, or nobody wants it. Idempotent.
    pub fn retire(&mut self, key: &RequestKey) -> Option<Sequence> {
        let mut sequence = self.sequences.remove(key)?;
        for page in sequence.pages.drain(..) {
            self.pool.release(page);
        }
        self.active.retain(|other| other != key);
        self.waiting.retain(|other| other != key);
        Some(sequence)
    }

    /// Renews the lease of a sequence; false when it is not here.
    pub fn keep(&mut self, key: &RequestKey, now_ms: u64) -> bool {
        let lease_ms = self.limits.lease_ms;
        self.sequences.get_mut(key).map(|found| found.lease_until_ms = now_ms + lease_ms).is_some()
    }

    /// Takes out what is past its deadline or wanted by nobody.
    pub fn expire(&mut self, now_ms: u64) -> Vec<Expired> {
        let expired: Vec<Expired> = self
            .sequences
            .values()
            .filter_map(|sequence| {
                let refusal = if sequence.deadline_ms <= now_ms {
                    Refusal::new(ErrorClass::Deadline, "the deadline passed on the worker")
                } else if sequence.lease_until_ms <= now_ms {
                    Refusal::new(ErrorClass::Cancelled, "the lease ran out: nobody renewed it")
                } else {
                    return None;
                };
                Some(Expired { key: sequence.key, refusal })
            })
            .collect();
        for gone in &expired {
            self.retire(&gone.key);
        }
        expired
    }

    /// A sequence on this worker.
    pub fn sequence(&self, key: &RequestKey) -> Option<&Sequence> {
        self.sequences.get(key)
    }

    /// Where the pages are; `leaked` counts holds that no sequence accounts for.
    pub fn pool_state(&self) -> PoolState {
        let mut holds = BTreeMap::new();
        for page in self.sequences.values().flat_map(|sequence| &sequence.pages) {
            *holds.entry(*page).or_insert(0) += 1;
        }
        self.pool.state(&holds)
    }

    /// What waits and what runs.
    pub fn load(&self) -> Load {
        let mut load = Load { preempted: self.preempted, ..Load::default() };
        for sequence in self.sequences.values() {
            let generating = sequence.phase == Phase::Computing && !sequence.output().is_empty();
            if generating {
                load.running_sequences += 1;
            } else if sequence.phase != Phase::Ended {
                load.queued_sequences += 1;
                if !sequence.awaits_first_token() {
                    load.queued_tokens += sequence.uncomputed() as u64;
                }
            }
        }
        load
    }
}
