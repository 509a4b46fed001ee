//! Release of sequences, leases, deadlines, and the state that a worker reports.

use protocol::{ErrorClass, PoolState, Refusal, RequestKey};

use super::{Expired, Load, Planner};
use crate::sequence::{Phase, Sequence};
use crate::speed;

impl Planner {
    /// Releases a sequence and its pages, if it is here: it ended or is no longer needed.
    pub fn retire(&mut self, key: &RequestKey) -> Option<Sequence> {
        let mut sequence = self.sequences.remove(key)?;
        for page in sequence.pages.drain(..) {
            self.pool.release(page);
        }
        self.active.retain(|other| other != key);
        self.waiting.retain(|other| other != key);
        Some(sequence)
    }

    /// Renews the lease of a sequence; returns false if it is not here.
    pub fn keep(&mut self, key: &RequestKey, now_ms: u64) -> bool {
        self.keep_until(key, self.gate.lease_until_ms(now_ms))
    }

    /// Sets the end of the lease of a sequence; returns false if it is not here.
    pub fn keep_until(&mut self, key: &RequestKey, lease_until_ms: u64) -> bool {
        self.sequences.get_mut(key).map(|found| found.lease_until_ms = lease_until_ms).is_some()
    }

    /// Removes the sequences whose deadline has passed or whose lease has expired.
    pub fn expire(&mut self, now_ms: u64) -> Vec<Expired> {
        let expired: Vec<Expired> = self
            .sequences
            .values()
            .filter_map(|sequence| {
                let refusal = if sequence.deadline_ms <= now_ms {
                    Refusal::new(ErrorClass::Deadline, "the deadline passed on the worker")
                } else if sequence.lease_until_ms <= now_ms {
                    Refusal::new(ErrorClass::Cancelled, "the lease expired: it was not renewed")
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

    /// Returns a sequence on this worker.
    pub fn sequence(&self, key: &RequestKey) -> Option<&Sequence> {
        self.sequences.get(key)
    }

    /// Returns the state of the pages; `leaked` counts holds that no sequence accounts for.
    pub fn pool_state(&self) -> PoolState {
        self.pool.state(self.sequences.values().flat_map(|sequence| &sequence.pages).copied())
    }

    /// Returns the load of waiting and running sequences.
    pub fn load(&self) -> Load {
        let mut load = Load { preempted: self.preempted, ..Load::default() };
        for sequence in self.sequences.values() {
            let generating = sequence.phase == Phase::Computing && !sequence.output().is_empty();
            if generating {
                load.running_sequences += 1;
                load.running_tokens += sequence.computed as u64;
            } else if sequence.phase != Phase::Ended {
                load.queued_sequences += 1;
                if !sequence.awaits_first_token() {
                    let (done, left) = (sequence.computed as u64, sequence.uncomputed() as u64);
                    load.queued_tokens += left;
                    load.queued_pairs += speed::pairs(done, left);
                }
            }
        }
        load
    }
}
