//! What the router knows about a worker and a request.

use protocol::{BLOCK_TOKENS, Role, Speed, WorkerId, WorkerState};

/// Prompt tokens that a step takes at most, as far as the price of a prompt goes.
const STEP_TOKENS: u64 = 256;
/// Output tokens counted for a generation whose length is unknown.
pub(super) const EXPECTED_OUTPUT_TOKENS: u32 = 128;
/// Assumed where a worker has not measured itself yet.
const DEFAULT_SPEED: Speed =
    Speed { step_us: 5_000.0, prefill_token_us: 2_000.0, decode_sequence_us: 5_000.0 };

/// What was sent to a worker since it last told its state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// Sequences that will compute their prompt there.
    pub prefills: u32,
    /// Sequences that will generate there.
    pub decodes: u32,
    /// Tokens of those prompts.
    pub prompt_tokens: u64,
    /// Pages that all of them need.
    pub pages: u32,
}

/// A worker as the router sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerView {
    /// Who.
    pub worker: WorkerId,
    /// Its assignment.
    pub role: Role,
    /// It would take a job now.
    pub ready: bool,
    /// Longest sequence it can hold.
    pub context_tokens: u32,
    /// Sequences waiting there.
    pub queued_sequences: u32,
    /// Prompt tokens waiting there.
    pub queued_tokens: u64,
    /// Sequences generating there.
    pub running_sequences: u32,
    /// Most sequences in one step.
    pub sequences_max: u32,
    /// Pages of its KV pool.
    pub pages_total: u32,
    /// Pages that no sequence holds.
    pub pages_open: u32,
    /// How fast it is; defaults where it has not measured.
    pub speed: Speed,
    /// True when `speed` was measured.
    pub measured: bool,
}

impl WorkerView {
    /// What `state` says, with `pending` on top.
    pub fn new(state: &WorkerState, pending: Pending) -> Self {
        let or = |value: f32, default: f32| {
            if value.is_finite() && 0.0 < value { value } else { default }
        };
        let speed = Speed {
            step_us: or(state.speed.step_us, DEFAULT_SPEED.step_us),
            prefill_token_us: or(state.speed.prefill_token_us, DEFAULT_SPEED.prefill_token_us),
            decode_sequence_us: or(
                state.speed.decode_sequence_us,
                DEFAULT_SPEED.decode_sequence_us,
            ),
        };
        let mut view = Self {
            worker: state.worker.clone(),
            role: state.role,
            ready: state.ready && !state.draining,
            context_tokens: state.context_tokens,
            queued_sequences: state.queued_sequences,
            queued_tokens: state.queued_tokens,
            running_sequences: state.running_sequences,
            sequences_max: state.sequences_max.max(1),
            pages_total: state.pool.total,
            pages_open: state.pool.free.saturating_add(state.pool.cached),
            measured: 0.0 < state.speed.prefill_token_us && 0.0 < state.speed.step_us,
            speed,
        };
        view.add(pending);
        view
    }

    /// Counts what was sent there since it told its state.
    pub fn add(&mut self, pending: Pending) {
        self.queued_sequences = self.queued_sequences.saturating_add(pending.prefills);
        self.queued_tokens = self.queued_tokens.saturating_add(pending.prompt_tokens);
        self.running_sequences = self.running_sequences.saturating_add(pending.decodes);
        self.pages_open = self.pages_open.saturating_sub(pending.pages);
    }

    /// Takes back what was added, because it is done or given up.
    pub fn remove(&mut self, pending: Pending) {
        self.queued_sequences = self.queued_sequences.saturating_sub(pending.prefills);
        self.queued_tokens = self.queued_tokens.saturating_sub(pending.prompt_tokens);
        self.running_sequences = self.running_sequences.saturating_sub(pending.decodes);
        self.pages_open = self.pages_open.saturating_add(pending.pages).min(self.pages_total);
    }

    /// True when the whole sequence can ever be held here.
    pub fn can_hold(&self, need: &Need) -> bool {
        need.tokens <= self.context_tokens && need.pages_max(self) <= self.pages_total
    }

    /// Predicted milliseconds from now to the first token, the queue first, then the prompt.
    pub fn first_token_ms(&self, need: &Need) -> (f32, f32) {
        let speed = &self.speed;
        let steps = |tokens: u64| tokens.div_ceil(STEP_TOKENS) as f32;
        let beside = self.running_sequences as f32 * speed.decode_sequence_us;
        let cost = |tokens: u64| {
            (steps(tokens) * (speed.step_us + beside) + tokens as f32 * speed.prefill_token_us)
                / 1_000.0
        };
        let uncached = u64::from(need.tokens.saturating_sub(need.cached_tokens).max(1));
        (cost(self.queued_tokens), cost(uncached))
    }
}

/// What a request asks of the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Tokens to have KV for before the next one: prompt and what is already generated.
    pub tokens: u32,
    /// The part of them known to be stored.
    pub cached_tokens: u32,
    /// Most tokens still to generate.
    pub output_tokens: u32,
}

impl Need {
    /// Pages that the whole sequence takes on `view` at its end.
    pub(super) fn pages_max(&self, view: &WorkerView) -> u32 {
        let tokens = self.tokens.saturating_add(self.output_tokens).min(view.context_tokens);
        tokens.div_ceil(BLOCK_TOKENS as u32)
    }

    /// Output tokens that a price counts.
    pub(super) fn expected_output(&self) -> f32 {
        self.output_tokens.min(EXPECTED_OUTPUT_TOKENS) as f32
    }

    /// Blocks that go from the prefill worker to the decode worker, the tail included.
    pub(super) fn blocks(&self) -> f32 {
        self.tokens.div_ceil(BLOCK_TOKENS as u32) as f32
    }
}
