//! The state that a worker publishes every second.

use serde::{Deserialize, Serialize};

use crate::blocks::{FileDigest, ModelFingerprint};
use crate::ids::WorkerId;

/// The role that a worker starts with. Any worker can run any leg at any time; the role sets the
/// prefill share of its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Computes prompts.
    Prefill,
    /// Generates.
    Decode,
}

impl Role {
    /// Returns the role as a metric label, trace attribute or command name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prefill => "prefill",
            Self::Decode => "decode",
        }
    }
}

/// Presence of a worker: put into the presence bucket every second, gone 3 s after its death.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerState {
    /// The worker.
    pub worker: WorkerId,
    /// Its role.
    pub role: Role,
    /// Share of a step's token budget open to prefill while it generates, 0 to 1.
    pub prefill_share: f32,
    /// Most tokens of a step.
    pub step_tokens: u32,
    /// The start of the process, in milliseconds since the Unix epoch; it shows a restart.
    pub epoch: u64,
    /// True if it accepts jobs now.
    pub ready: bool,
    /// True if it finishes its requests and accepts nothing new.
    pub draining: bool,
    /// The model's name.
    pub model: String,
    /// Digest of the model's files; a gateway uses only workers that serve its own file.
    pub files: FileDigest,
    /// The fingerprint of the model's blocks.
    pub fingerprint: ModelFingerprint,
    /// The longest sequence that it can hold.
    pub context_tokens: u32,
    /// Compute device, for people.
    pub device: String,
    /// Sequences accepted and not yet computing.
    pub queued_sequences: u32,
    /// Prompt tokens accepted and not yet computed.
    pub queued_tokens: u64,
    /// Pairs of such a token and an earlier one of its sequence: the work of attention.
    pub queued_pairs: u64,
    /// Sequences that are generating.
    pub running_sequences: u32,
    /// Their tokens so far.
    pub running_tokens: u64,
    /// Most sequences in one step.
    pub sequences_max: u32,
    /// KV pages.
    pub pool: PoolState,
    /// Measured speed.
    pub speed: Speed,
    /// The address of its `/metrics` and `/ready`.
    pub health_address: String,
}

impl WorkerState {
    /// Returns the state of the worker in a word, for people.
    pub fn state_word(&self) -> &'static str {
        match (self.draining, self.ready) {
            (true, _) => "draining",
            (false, true) => "ready",
            (false, false) => "not ready",
        }
    }
}

/// The pages of a KV pool by state. `free + cached + leased = total` at rest, `leaked = 0` always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolState {
    /// Pages without a block.
    pub free: u32,
    /// Pages with a sealed block that no sequence uses now.
    pub cached: u32,
    /// Pages held by sequences.
    pub leased: u32,
    /// All pages.
    pub total: u32,
    /// Pages held by no known sequence: a defect.
    pub leaked: u32,
}

/// A worker's own estimate of its speed, fitted to its steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    /// Steps that compute prompts: an item is a prompt token.
    pub prefill: StepCost,
    /// Steps that only generate: an item is a sequence.
    pub decode: StepCost,
}

/// The predicted time of a step, in microseconds; no part of it is negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepCost {
    /// Time per step.
    pub step_us: f32,
    /// Time per item in it.
    pub item_us: f32,
    /// Time per pair of an item and an earlier token that it attends to.
    pub pair_us: f32,
    /// Recent error of predictions made before a step, as a share of the actual time.
    pub error: f32,
    /// Steps that were measured; the other fields mean nothing while it is 0.
    pub steps: u64,
}

impl StepCost {
    /// Returns the predicted time of `steps` steps with `items` and `pairs` in all.
    pub fn us(&self, steps: f32, items: f32, pairs: f32) -> f32 {
        steps * self.step_us + items * self.item_us + pairs * self.pair_us
    }

    /// Returns true if steps were measured.
    pub fn is_measured(&self) -> bool {
        self.steps > 0
    }
}
