//! A worker's state for tests that need some state, not a particular one.

use protocol::{FileDigest, ModelFingerprint, PoolState, Role, Speed, WorkerState};

/// Returns the state of a worker that is ready, idle and has an empty pool.
///
/// Tests set what they are about by struct update:
/// `WorkerState { draining: true, ..testbed::idle_worker("w", Role::Decode) }`.
///
/// # Panics
///
/// When `name` is no worker id.
pub fn idle_worker(name: &str, role: Role) -> WorkerState {
    let files = FileDigest([1; 32]);
    WorkerState {
        worker: name.parse().expect("the name of a test's worker is a worker id"),
        role,
        prefill_share: 0.5,
        step_tokens: 256,
        epoch: 1,
        ready: true,
        draining: false,
        model: "test".to_owned(),
        files,
        fingerprint: ModelFingerprint::new(files, "f16"),
        context_tokens: 2_048,
        device: "cpu".to_owned(),
        queued_sequences: 0,
        queued_tokens: 0,
        queued_pairs: 0,
        running_sequences: 0,
        running_tokens: 0,
        sequences_max: 8,
        pool: PoolState { free: 128, total: 128, ..PoolState::default() },
        speed: Speed::default(),
        health_address: String::new(),
    }
}
