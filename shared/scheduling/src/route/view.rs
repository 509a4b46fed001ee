//! The router's view of a worker and of a request.

use protocol::{BLOCK_TOKENS, Role, Speed, StepCost, WorkerId, WorkerState};

use crate::planner::prompt_budget;
use crate::speed::pairs;

/// Output tokens counted for a generation whose length is unknown.
pub(super) const EXPECTED_OUTPUT_TOKENS: u32 = 128;
/// Assumed while no worker has measured itself.
const ASSUMED: Speed = Speed {
    prefill: StepCost { step_us: 5_000.0, item_us: 500.0, pair_us: 0.0, error: 1.0, steps: 0 },
    decode: StepCost { step_us: 5_000.0, item_us: 1_000.0, pair_us: 0.0, error: 1.0, steps: 0 },
};
/// Steps after which a worker's word is enough to turn work away.
const MEASURED_STEPS: u64 = 8;

/// Work sent to a worker since it last reported its state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// Sequences that will compute their prompt there.
    pub prefills: u32,
    /// Sequences that will generate there.
    pub decodes: u32,
    /// Tokens of those prompts.
    pub prompt_tokens: u64,
    /// Pairs of these and earlier tokens of the same prompt.
    pub prompt_pairs: u64,
    /// Tokens that those who generate attend to.
    pub decode_tokens: u64,
    /// Pages that all of them need.
    pub pages: u32,
}

impl Pending {
    /// Returns the sum of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            prefills: self.prefills.saturating_add(other.prefills),
            decodes: self.decodes.saturating_add(other.decodes),
            prompt_tokens: self.prompt_tokens.saturating_add(other.prompt_tokens),
            prompt_pairs: self.prompt_pairs.saturating_add(other.prompt_pairs),
            decode_tokens: self.decode_tokens.saturating_add(other.decode_tokens),
            pages: self.pages.saturating_add(other.pages),
        }
    }
}

/// A worker as the router sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerView {
    /// The worker.
    pub worker: WorkerId,
    /// Its role.
    pub role: Role,
    /// It would take a job now.
    pub ready: bool,
    /// Longest sequence it can hold.
    pub context_tokens: u32,
    /// Most tokens of a step.
    pub step_tokens: u32,
    /// Share of them open to prompts while it generates.
    pub prefill_share: f32,
    /// Sequences waiting there.
    pub queued_sequences: u32,
    /// Prompt tokens waiting there.
    pub queued_tokens: u64,
    /// Pairs of these and earlier tokens of the same prompt.
    pub queued_pairs: u64,
    /// It has worked on these since then, in milliseconds of the caller's clock.
    pub queued_since_ms: u64,
    /// Sequences generating there.
    pub running_sequences: u32,
    /// Tokens that these attend to.
    pub running_tokens: u64,
    /// Most sequences in one step.
    pub sequences_max: u32,
    /// Pages of its KV pool.
    pub pages_total: u32,
    /// Pages that no sequence holds.
    pub pages_open: u32,
    /// Its speed, assumed where it has not been measured.
    pub speed: Speed,
}

impl WorkerView {
    /// Returns the view of a worker that reported `state` at `now_ms`, with `pending` on top.
    pub fn new(state: &WorkerState, pending: Pending, now_ms: u64) -> Self {
        let mut view = Self {
            worker: state.worker.clone(),
            role: state.role,
            ready: state.ready && !state.draining,
            context_tokens: state.context_tokens,
            step_tokens: state.step_tokens.max(1),
            prefill_share: state.prefill_share,
            queued_sequences: state.queued_sequences,
            queued_tokens: state.queued_tokens,
            queued_pairs: state.queued_pairs,
            queued_since_ms: now_ms,
            running_sequences: state.running_sequences,
            running_tokens: state.running_tokens,
            sequences_max: state.sequences_max.max(1),
            pages_total: state.pool.total,
            pages_open: state.pool.free.saturating_add(state.pool.cached),
            speed: Speed {
                prefill: reported_or(state.speed.prefill, ASSUMED.prefill),
                decode: reported_or(state.speed.decode, ASSUMED.decode),
            },
        };
        view.add(pending, now_ms);
        view
    }

    /// Takes what it has not measured from those that have: workers of one model are more like
    /// each other than like anything else that one could assume.
    pub fn assume<'a>(&mut self, others: impl Iterator<Item = &'a Self> + Clone) {
        let mean = |of: fn(&Self) -> &StepCost| {
            mean(others.clone().map(of).filter(|cost| cost.is_measured()))
        };
        if !self.speed.prefill.is_measured() {
            self.speed.prefill = mean(|other| &other.speed.prefill).unwrap_or(ASSUMED.prefill);
        }
        if !self.speed.decode.is_measured() {
            self.speed.decode = mean(|other| &other.speed.decode).unwrap_or(ASSUMED.decode);
        }
    }

    /// Returns whether it has measured all that a prediction takes.
    pub fn is_measured(&self) -> bool {
        self.speed.prefill.is_measured() && self.speed.decode.is_measured()
    }

    /// Counts work sent there at `now_ms`, until the worker reports it.
    pub fn add(&mut self, pending: Pending, now_ms: u64) {
        if self.queued_tokens == 0 {
            self.queued_since_ms = now_ms;
        }
        self.queued_sequences = self.queued_sequences.saturating_add(pending.prefills);
        self.queued_tokens = self.queued_tokens.saturating_add(pending.prompt_tokens);
        self.queued_pairs = self.queued_pairs.saturating_add(pending.prompt_pairs);
        self.running_sequences = self.running_sequences.saturating_add(pending.decodes);
        self.running_tokens = self.running_tokens.saturating_add(pending.decode_tokens);
        self.pages_open = self.pages_open.saturating_sub(pending.pages);
    }

    /// Takes back added work that is done or given up at `now_ms`. A prompt that is done
    /// has had all the work so far.
    pub fn remove(&mut self, pending: Pending, now_ms: u64) {
        if pending.prefills != 0 {
            self.queued_since_ms = now_ms;
        }
        self.queued_sequences = self.queued_sequences.saturating_sub(pending.prefills);
        self.queued_tokens = self.queued_tokens.saturating_sub(pending.prompt_tokens);
        self.queued_pairs = self.queued_pairs.saturating_sub(pending.prompt_pairs);
        self.running_sequences = self.running_sequences.saturating_sub(pending.decodes);
        self.running_tokens = self.running_tokens.saturating_sub(pending.decode_tokens);
        self.pages_open = self.pages_open.saturating_add(pending.pages).min(self.pages_total);
    }

    /// Returns whether the whole sequence can ever be held here.
    pub fn can_hold(&self, need: &Need) -> bool {
        need.tokens <= self.context_tokens && need.pages_max(self) <= self.pages_total
    }

    /// Returns the predicted milliseconds from `now_ms` to the first token, the queue first, then the prompt.
    ///
    /// Prompts are computed in order, in steps that are filled up; what generates takes part in
    /// each of them, and a prompt that comes in the midst of a step waits half of it on average.
    pub fn first_token_ms(&self, need: &Need, now_ms: u64) -> (f32, f32) {
        let Speed { prefill, decode } = &self.speed;
        let generating = self.running_sequences as f32;
        let beside_us = decode.us(0.0, generating, self.running_tokens as f32);
        let steps_us = |steps: u64| steps as f32 * (prefill.step_us + beside_us);
        let budget =
            prompt_budget(self.step_tokens as usize, self.prefill_share, generating as usize);
        let budget = budget.max(1) as u64;
        let full_steps = self.queued_tokens / budget;
        let queue_us = steps_us(full_steps)
            + prefill.us(0.0, self.queued_tokens as f32, self.queued_pairs as f32);
        let worked_ms = now_ms.saturating_sub(self.queued_since_ms) as f32;
        let half_step_us = match self.running_sequences {
            0 => 0.0,
            _ => decode.us(1.0, generating, self.running_tokens as f32) / 2.0,
        };
        let queue_ms = (queue_us / 1_000.0 - worked_ms).max(0.0) + half_step_us / 1_000.0;
        let (cached, uncached) = need.cached_and_not();
        let steps = self.queued_tokens.saturating_add(uncached).div_ceil(budget) - full_steps;
        let prompt_us =
            steps_us(steps) + prefill.us(0.0, uncached as f32, pairs(cached, uncached) as f32);
        (queue_ms, prompt_us / 1_000.0)
    }

    /// Returns the predicted milliseconds of each token, if a sequence with `need` generates here as well.
    pub fn token_ms(&self, need: &Need) -> f32 {
        let tokens = self.running_tokens as f32 + need.attended();
        self.speed.decode.us(1.0, self.running_sequences as f32 + 1.0, tokens) / 1_000.0
    }

    /// Returns the milliseconds that it adds to each of the other sequences' tokens here.
    pub(super) fn token_harm_ms(&self, need: &Need) -> f32 {
        self.speed.decode.us(0.0, 1.0, need.attended()) / 1_000.0
    }

    /// Returns the milliseconds to the first token that the worker's own figures vouch for: the least
    /// that its usual error leaves of it, and nothing as long as it has measured little.
    pub fn certain_first_token_ms(&self, need: &Need, now_ms: u64) -> f32 {
        let cost = &self.speed.prefill;
        if cost.steps < MEASURED_STEPS {
            return 0.0;
        }
        let (queue_ms, prefill_ms) = self.first_token_ms(need, now_ms);
        (queue_ms + prefill_ms) / (1.0 + cost.error)
    }
}

/// Returns the reported cost if it is measured and sound.
fn reported_or(reported: StepCost, assumed: StepCost) -> StepCost {
    let parts = [reported.step_us, reported.item_us, reported.pair_us, reported.error];
    let sound = parts.iter().all(|part| part.is_finite() && *part >= 0.0);
    if reported.is_measured() && sound { reported } else { assumed }
}

/// Returns the mean cost, which counts as not measured; `None` of no costs.
fn mean<'a>(costs: impl Iterator<Item = &'a StepCost>) -> Option<StepCost> {
    let mut sum = StepCost::default();
    let mut count = 0.0_f32;
    for cost in costs {
        sum.step_us += cost.step_us;
        sum.item_us += cost.item_us;
        sum.pair_us += cost.pair_us;
        count += 1.0;
    }
    (count > 0.0).then(|| StepCost {
        step_us: sum.step_us / count,
        item_us: sum.item_us / count,
        pair_us: sum.pair_us / count,
        ..ASSUMED.prefill
    })
}

/// The demand of a request on the workers.
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
    /// Returns the work for its prompt; at least the last token is computed.
    pub fn prompt(&self) -> Pending {
        let (cached, uncached) = self.cached_and_not();
        let prompt_pairs = pairs(cached, uncached);
        let pages = self.pages();
        Pending { prefills: 1, prompt_tokens: uncached, prompt_pairs, pages, ..Pending::default() }
    }

    /// Returns the work of generating after the prompt.
    pub fn generation(&self) -> Pending {
        let (decode_tokens, pages) = (u64::from(self.tokens), self.pages());
        Pending { decodes: 1, decode_tokens, pages, ..Pending::default() }
    }

    fn pages(&self) -> u32 {
        self.tokens.div_ceil(BLOCK_TOKENS as u32) + 1
    }

    fn cached_and_not(&self) -> (u64, u64) {
        let tokens = self.tokens.max(1);
        let cached = self.cached_tokens.min(tokens - 1);
        (cached.into(), (tokens - cached).into())
    }

    /// Returns the mean number of tokens that an output token attends to.
    fn attended(&self) -> f32 {
        self.tokens as f32 + self.expected_output() / 2.0
    }

    /// Returns the pages that the whole sequence takes on `view` at its end.
    pub(super) fn pages_max(&self, view: &WorkerView) -> u32 {
        let tokens = self.tokens.saturating_add(self.output_tokens).min(view.context_tokens);
        tokens.div_ceil(BLOCK_TOKENS as u32)
    }

    /// Returns the output tokens that a price counts.
    pub(super) fn expected_output(&self) -> f32 {
        self.output_tokens.min(EXPECTED_OUTPUT_TOKENS) as f32
    }

    /// Returns the number of blocks that go from the prefill worker to the decode worker, the tail included.
    pub(super) fn blocks(&self) -> f32 {
        self.tokens.div_ceil(BLOCK_TOKENS as u32) as f32
    }
}
