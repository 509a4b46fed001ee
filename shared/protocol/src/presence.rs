//! What a worker says about itself every second.

use serde::{Deserialize, Serialize};

use crate::blocks::{FileDigest, ModelFingerprint};
use crate::ids::WorkerId;

/// A worker's present assignment. Any worker can do any leg at any time; the role says how much
/// of each step it gives to prefill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Computes prompts.
    Prefill,
    /// Generates.
    Decode,
}

impl Role {
    /// The role as a metric label, trace attribute or command name.
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
    /// Who.
    pub worker: WorkerId,
    /// Its assignment.
    pub role: Role,
    /// Share of a step's token budget open to prefill while it generates, 0 to 1.
    pub prefill_share: f32,
    /// Most tokens of a step.
    pub step_tokens: u32,
    /// When this process started, in milliseconds since the Unix epoch: tells a restart.
    pub epoch: u64,
    /// True when it would take a job now.
    pub ready: bool,
    /// True when it finishes what it has and takes nothing new.
    pub draining: bool,
    /// The model's name.
    pub model: String,
    /// Digest of the model's files; a gateway uses only workers that serve its own file.
    pub files: FileDigest,
    /// Names this model's blocks.
    pub fingerprint: ModelFingerprint,
    /// Longest sequence it can hold.
    pub context_tokens: u32,
    /// Compute device, for people.
    pub device: String,
    /// Sequences accepted and not yet computing.
    pub queued_sequences: u32,
    /// Prompt tokens accepted and not yet computed.
    pub queued_tokens: u64,
    /// Pairs of such a token and an earlier one of its sequence: what attention has to look at.
    pub queued_pairs: u64,
    /// Sequences that are generating.
    pub running_sequences: u32,
    /// Tokens that these have by now.
    pub running_tokens: u64,
    /// Most sequences in one step.
    pub sequences_max: u32,
    /// KV pages.
    pub pool: PoolState,
    /// Measured speed.
    pub speed: Speed,
    /// Where its `/metrics` and `/ready` are served.
    pub health_address: String,
}

impl WorkerState {
    /// Whether it takes work, in a word for people.
    pub fn state_word(&self) -> &'static str {
        match (self.draining, self.ready) {
            (true, _) => "draining",
            (false, true) => "ready",
            (false, false) => "not ready",
        }
    }
}

/// Where the pages of a KV pool are. `free + cached + leased = total` at rest, always
/// `leaked = 0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolState {
    /// Never used or forgotten.
    pub free: u32,
    /// Holding a named block that nobody uses now.
    pub cached: u32,
    /// Held by sequences.
    pub leased: u32,
    /// All.
    pub total: u32,
    /// Held by nobody known: a defect.
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

/// What a step takes, in microseconds; none of it is negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepCost {
    /// Of any such step.
    pub step_us: f32,
    /// Per item in it.
    pub item_us: f32,
    /// Per pair of an item and an earlier token that it attends to.
    pub pair_us: f32,
    /// How far predictions made before a step were off lately, as a share of what it took.
    pub error: f32,
    /// Steps that this rests on; the rest means nothing while it is 0.
    pub steps: u64,
}

impl StepCost {
    /// What `steps` of them with so many items and pairs in all take.
    pub fn us(&self, steps: f32, items: f32, pairs: f32) -> f32 {
        steps * self.step_us + items * self.item_us + pairs * self.pair_us
    }

    /// True when there was something to fit.
    pub fn is_measured(&self) -> bool {
        0 < self.steps
    }
}
