//! What a worker was given and has not done, and how much of it its own state tells already.

use protocol::WorkerState;

use super::Pending;

/// A job sent this shortly before a worker's state arrived is not in that state yet.
const UNTOLD_MS: u64 = 100;

/// One router's work on one worker, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    at_ms: u64,
    sent: Pending,
    /// What of it the worker's view counts.
    left: Pending,
}

impl Ledger {
    /// Notes what is sent at `now_ms`.
    pub fn send(&mut self, sent: Pending, now_ms: u64) {
        self.entries.push(Entry { at_ms: now_ms, sent, left: sent });
    }

    /// What is left to take back of it when it is done or given up, of equal ones the oldest;
    /// `None` where the process that had it is gone.
    pub fn done(&mut self, sent: Pending) -> Option<Pending> {
        let at = self.entries.iter().position(|entry| entry.sent == sent)?;
        Some(self.entries.remove(at).left)
    }

    /// The worker is another process now, and has nothing.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// What a state that arrives at `now_ms` cannot count yet. What it counts is shared out among
    /// the rest: a worker works in order, so what it has begun is what came first.
    pub fn untold(&mut self, state: &WorkerState, now_ms: u64) -> Pending {
        let (mut tokens, mut pairs) = (state.queued_tokens, state.queued_pairs);
        let mut untold = Pending::default();
        for entry in self.entries.iter_mut().rev() {
            entry.left = entry.sent;
            if now_ms.saturating_sub(entry.at_ms) < UNTOLD_MS {
                untold = untold.and(entry.sent);
                continue;
            }
            entry.left.prompt_tokens = entry.sent.prompt_tokens.min(tokens);
            entry.left.prompt_pairs = entry.sent.prompt_pairs.min(pairs);
            tokens -= entry.left.prompt_tokens;
            pairs -= entry.left.prompt_pairs;
        }
        untold
    }
}
