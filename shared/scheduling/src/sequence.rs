//! One sequence on one worker: its tokens, pages and how far its KV is computed.

use protocol::{
    BLOCK_TOKENS, BlockChain, BlockHash, Finish, ModelFingerprint, RequestKey, Scope, Stopping,
    TokenId,
};

use crate::pool::Page;

/// The part of a generation that the worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Ends with the first token.
    Prefill,
    /// Starts from blocks that another worker computes, after its first token.
    Decode,
    /// From the prompt to the end.
    Whole,
}

/// A sequence as it is submitted.
#[derive(Clone, Debug)]
pub struct NewSequence {
    /// The request and its attempt.
    pub key: RequestKey,
    /// The part to do.
    pub part: Part,
    /// Prompt.
    pub prompt: Vec<TokenId>,
    /// Output of earlier attempts.
    pub output: Vec<TokenId>,
    /// The conditions under which it ends.
    pub stopping: Stopping,
    /// The scope of its blocks.
    pub scope: Scope,
    /// Every prompt position's logits are wanted, so no prefix may be skipped.
    pub score_prompt: bool,
    /// The time at which it becomes worthless.
    pub deadline_ms: u64,
}

/// The phase of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Accepted; has no pages.
    Waiting,
    /// Has its pages; stored blocks are on their way into them.
    Fetching,
    /// Its blocks are in; the first token is not known yet.
    AwaitingFirstToken,
    /// Takes part in steps.
    Computing,
    /// Ended; its pages are still held for export.
    Ended,
}

/// A sequence on a worker.
#[derive(Clone, Debug)]
pub struct Sequence {
    /// The request and its attempt.
    pub key: RequestKey,
    /// The part to do.
    pub part: Part,
    /// Its phase.
    pub phase: Phase,
    /// Prompt, then output.
    pub tokens: Vec<TokenId>,
    /// Length of the prompt.
    pub prompt_tokens: usize,
    /// Tokens whose KV is in the pages.
    pub computed: usize,
    /// Page of each block, in order.
    pub pages: Vec<Page>,
    /// Tokens taken from the worker's own pool at the last admission.
    pub local_tokens: usize,
    /// Tokens taken from the store at the last admission.
    pub stored_tokens: usize,
    /// Times its pages were taken away.
    pub preemptions: u32,
    /// The time at which it becomes worthless.
    pub deadline_ms: u64,
    /// The end of its lease, unless renewed.
    pub lease_until_ms: u64,
    /// Order of acceptance: the youngest is preempted first.
    pub age: u64,
    /// Every prompt position's logits are wanted.
    pub score_prompt: bool,
    stopping: Stopping,
    chain: BlockChain,
    names: Vec<BlockHash>,
}

impl Sequence {
    /// Returns a sequence that waits.
    pub fn new(new: NewSequence, fingerprint: ModelFingerprint, lease_until_ms: u64) -> Self {
        let prompt_tokens = new.prompt.len();
        let mut tokens = new.prompt;
        tokens.extend(new.output);
        let mut sequence = Self {
            key: new.key,
            part: new.part,
            phase: Phase::Waiting,
            tokens,
            prompt_tokens,
            computed: 0,
            pages: Vec::new(),
            local_tokens: 0,
            stored_tokens: 0,
            preemptions: 0,
            deadline_ms: new.deadline_ms,
            lease_until_ms,
            age: 0,
            score_prompt: new.score_prompt,
            stopping: new.stopping,
            chain: BlockChain::new(fingerprint, new.scope),
            names: Vec::new(),
        };
        sequence.extend_names();
        sequence
    }

    /// Makes room for all that the sequence can grow to, so that steps do not allocate.
    pub(crate) fn reserve(&mut self, tokens_max: usize) {
        let left = (self.stopping.max_tokens as usize).saturating_sub(self.output().len());
        // One page ahead: the token after the last one known has its slot already.
        let tokens = (self.tokens.len() + left.max(1)).min(tokens_max.max(self.tokens.len()) + 1);
        self.tokens.reserve_exact(tokens - self.tokens.len());
        let blocks = (tokens + 1).div_ceil(BLOCK_TOKENS);
        self.names.reserve_exact(blocks.saturating_sub(self.names.len()));
        self.pages.reserve_exact(blocks);
    }

    /// Returns whether its latest token is to be computed and the next one chosen. Computing the last
    /// prompt token is prefill work, and so is the last token of a chunk.
    pub fn generates(&self) -> bool {
        self.phase == Phase::Computing && self.uncomputed() == 1 && !self.output().is_empty()
    }

    /// Returns the tokens generated so far, those of earlier attempts included.
    pub fn output(&self) -> &[TokenId] {
        &self.tokens[self.prompt_tokens..]
    }

    /// Returns the names of all full blocks of the tokens known now.
    pub fn names(&self) -> &[BlockHash] {
        &self.names
    }

    /// Returns the name of the partly filled last block, if there is one.
    pub fn tail_name(&self) -> Option<BlockHash> {
        let tail = &self.tokens[self.names.len() * BLOCK_TOKENS..];
        (!tail.is_empty()).then(|| self.chain.tail(tail))
    }

    /// Returns the number of tokens without KV.
    pub fn uncomputed(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Returns the number of full blocks that may be taken from elsewhere: the last token is always computed here,
    /// unless another worker has already chosen what follows it.
    pub fn reusable_blocks(&self) -> usize {
        if self.score_prompt {
            return 0;
        }
        if self.awaits_first_token() {
            self.names.len()
        } else {
            (self.tokens.len() - 1) / BLOCK_TOKENS
        }
    }

    /// Returns true for a sequence whose next token another worker chooses.
    pub fn awaits_first_token(&self) -> bool {
        self.part == Part::Decode && self.phase != Phase::Computing && self.preemptions == 0
    }

    /// Returns the pages needed to hold every known token and the next one.
    pub fn pages_needed(&self) -> usize {
        (self.tokens.len() + 1).div_ceil(BLOCK_TOKENS)
    }

    /// Appends a token; returns the finish reason if the sequence ends with it.
    pub fn push(&mut self, token: TokenId, tokens_max: usize) -> Option<Finish> {
        self.tokens.push(token);
        self.extend_names();
        if self.stopping.stop_tokens.contains(&token)
            && self.stopping.min_tokens as usize <= self.output().len()
        {
            Some(Finish::Stop)
        } else if self.stopping.max_tokens as usize <= self.output().len()
            || tokens_max <= self.tokens.len()
        {
            Some(Finish::Length)
        } else {
            None
        }
    }

    /// Returns whether the prompt is only scored.
    pub fn wants_no_token(&self) -> bool {
        self.stopping.max_tokens as usize <= self.output().len()
    }

    /// Returns the tokens that may not be chosen next: those that would end the sequence too early.
    pub fn banned(&self) -> &[TokenId] {
        if self.output().len() < self.stopping.min_tokens as usize {
            &self.stopping.stop_tokens
        } else {
            &[]
        }
    }

    fn extend_names(&mut self) {
        while (self.names.len() + 1) * BLOCK_TOKENS <= self.tokens.len() {
            let start = self.names.len() * BLOCK_TOKENS;
            let name = self.chain.push(&self.tokens[start..start + BLOCK_TOKENS]);
            self.names.push(name);
        }
    }
}
