//! The load of a worker, as presence and metrics report it.

/// The load of a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Sequences without output yet.
    pub queued_sequences: u32,
    /// Their uncomputed tokens, those that another worker computes left out.
    pub queued_tokens: u64,
    /// Pairs of such a token and an earlier one of its sequence.
    pub queued_pairs: u64,
    /// Sequences that generate.
    pub running_sequences: u32,
    /// Their tokens.
    pub running_tokens: u64,
    /// Preemptions since the start.
    pub preempted: u64,
}
