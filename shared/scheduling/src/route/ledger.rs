//! The work that a worker has in flight, and the part of it that its own state already reports.

use protocol::WorkerState;

use super::Pending;

/// A job sent this shortly before a worker's state arrived is not in that state yet.
const UNREPORTED_MS: u64 = 100;

/// One router's work on one worker, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    at_ms: u64,
    sent: Pending,
    /// The part of it that the worker's view counts.
    left: Pending,
}

impl Ledger {
    /// Adds work that is sent at `now_ms`.
    pub fn add(&mut self, sent: Pending, now_ms: u64) {
        self.entries.push(Entry { at_ms: now_ms, sent, left: sent });
    }

    /// Removes work that is done or given up, of equal ones the oldest, and returns the part that the
    /// view still counts; `None` if the process that had it is gone.
    pub fn remove(&mut self, sent: Pending) -> Option<Pending> {
        let at = self.entries.iter().position(|entry| entry.sent == sent)?;
        Some(self.entries.remove(at).left)
    }

    /// Removes everything: the worker is another process now.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// Returns the work that a state arriving at `now_ms` cannot count yet. The work that it counts is
    /// shared out among the rest: a worker works in order, so it begins with the oldest.
    pub fn unreported(&mut self, state: &WorkerState, now_ms: u64) -> Pending {
        let (mut tokens, mut pairs) = (state.queued_tokens, state.queued_pairs);
        let mut unreported = Pending::default();
        for entry in self.entries.iter_mut().rev() {
            entry.left = entry.sent;
            if now_ms.saturating_sub(entry.at_ms) < UNREPORTED_MS {
                unreported = unreported.and(entry.sent);
                continue;
            }
            entry.left.prompt_tokens = entry.sent.prompt_tokens.min(tokens);
            entry.left.prompt_pairs = entry.sent.prompt_pairs.min(pairs);
            tokens -= entry.left.prompt_tokens;
            pairs -= entry.left.prompt_pairs;
        }
        unreported
    }
}
