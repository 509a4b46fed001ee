//! Chooses what one engine step computes: decode rows first, then prefill chunks within a token
//! budget, newcomers at every step, the youngest preempted when pages run out (continuous batching
//! after Orca, paged KV after vLLM, chunked prefill after Sarathi-Serve).
//!
//! Owns no clock, channel or tensor. Whoever steps submits sequences, runs the rows of
//! [`Planner::plan_into`] and reports back with [`Planner::commit`]. A step that neither completes a
//! block nor admits a sequence allocates nothing.

use std::collections::{BTreeMap, VecDeque};

use protocol::{BLOCK_TOKENS, BlockHash, Finish, ModelFingerprint, Refusal, RequestKey, TokenId};

pub use self::gate::Gate;
pub use self::load::Load;
pub(crate) use self::rows::prompt_budget;
use crate::pool::{BlockPool, Page};
use crate::sequence::{Part, Phase, Sequence};

mod admit;
mod gate;
mod load;
mod rows;
mod upkeep;

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
    /// Sequences that wait for pages, those whose pages were taken away included.
    pub queue_max: usize,
    /// Milliseconds that a sequence lives without a renewal.
    pub lease_ms: u64,
}

/// The logits that a row needs.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The sequence.
    pub key: RequestKey,
    /// Index of the first token computed.
    pub start: usize,
    /// Number of tokens computed.
    pub count: usize,
    /// The logits needed of the result.
    pub logits: Logits,
}

/// A sequence that got its pages; its stored blocks are to be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The sequence.
    pub key: RequestKey,
    /// Index of the first block that is not here.
    pub first_block: usize,
    /// Names of that block and the following ones; the last may be a tail.
    pub missing: Vec<BlockHash>,
    /// Names of all full blocks of the tokens known now.
    pub names: Vec<BlockHash>,
    /// True if another worker is computing them, so that waiting for them makes sense.
    pub awaited: bool,
}

/// The effect of a step on a sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Full blocks that became complete: index, name, page.
    pub sealed: Vec<(usize, BlockHash, Page)>,
    /// The partly filled last block, when another worker needs it: name, page, tokens in it.
    pub tail: Option<(BlockHash, Page, usize)>,
    /// Index in the output of the token that was chosen.
    pub index: Option<u32>,
    /// Reason for which the sequence ended, if it did.
    pub finish: Option<Finish>,
    /// True if this worker has finished it: [`Planner::retire`] it after exporting its blocks.
    pub done: bool,
}

/// A sequence taken out by [`Planner::expire`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expired {
    /// The sequence.
    pub key: RequestKey,
    /// The reason.
    pub refusal: Refusal,
}

/// All sequences of one worker.
#[derive(Clone, Debug)]
pub struct Planner {
    gate: Gate,
    limits: Limits,
    pool: BlockPool,
    sequences: BTreeMap<RequestKey, Sequence>,
    waiting: VecDeque<RequestKey>,
    /// Everything that holds pages, oldest first.
    active: Vec<RequestKey>,
    submitted: u64,
    preempted: u64,
}

impl Planner {
    /// Returns the planner of a worker without sequences.
    pub fn new(limits: Limits, fingerprint: ModelFingerprint, pages: u32) -> Self {
        Self {
            gate: Gate::new(limits, fingerprint, pages),
            limits,
            pool: BlockPool::new(pages),
            sequences: BTreeMap::new(),
            waiting: VecDeque::new(),
            active: Vec::new(),
            submitted: 0,
            preempted: 0,
        }
    }

    /// Books a computed row and the token chosen from its last logits, if one was.
    /// `None` when the sequence was given up while the step ran.
    pub fn commit(&mut self, row: &Row, chosen: Option<TokenId>) -> Option<Outcome> {
        let tokens_max = self.gate.tokens_max();
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
            outcome.finish = sequence.push(token, tokens_max);
        } else if sequence.wants_no_token() {
            outcome.finish = Some(Finish::Length);
        }
        outcome.done = outcome.finish.is_some() || sequence.part == Part::Prefill;
        if outcome.done {
            sequence.phase = Phase::Ended;
        }
        Some(outcome)
    }
}
