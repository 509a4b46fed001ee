//! The workers as the gateway knows them: what they told, and what it gave them since.

use std::collections::BTreeMap;

use protocol::{WorkerId, WorkerState};
use scheduling::route::{Choice, Ledger, Need, Pending, WorkerView};

/// A worker as it last told its state.
struct Seen {
    view: WorkerView,
    ledger: Ledger,
    epoch: u64,
    at_ms: u64,
}

/// Work that a worker was given.
pub(super) type Load = (WorkerId, Pending);

#[derive(Default)]
pub(super) struct Fleet {
    seen: BTreeMap<WorkerId, Seen>,
}

impl Fleet {
    /// The epoch of the process that told its state last.
    pub(super) fn epoch(&self, worker: &WorkerId) -> Option<u64> {
        self.seen.get(worker).map(|seen| seen.epoch)
    }

    pub(super) fn told(&mut self, state: &WorkerState, now_ms: u64) {
        let before = self.seen.remove(&state.worker);
        let mut ledger = before.map(|seen| seen.ledger).unwrap_or_default();
        let pending = ledger.untold(state, now_ms);
        let mut view = WorkerView::new(state, pending, now_ms);
        view.assume(self.seen.values().map(|other| &other.view));
        let seen = Seen { view, ledger, epoch: state.epoch, at_ms: now_ms };
        self.seen.insert(state.worker.clone(), seen);
    }

    pub(super) fn forget(&mut self, worker: &WorkerId) {
        self.seen.remove(worker);
    }

    /// Those who have told nothing since `since_ms`.
    pub(super) fn silent(&self, since_ms: u64) -> Vec<WorkerId> {
        let silent = self.seen.iter().filter(|(_, seen)| seen.at_ms < since_ms);
        silent.map(|(worker, _)| worker.clone()).collect()
    }

    pub(super) fn views(&self) -> Vec<WorkerView> {
        self.seen.values().map(|seen| seen.view.clone()).collect()
    }

    /// What was sent counts until presence says so.
    pub(super) fn send(&mut self, choice: &Choice, need: &Need, now_ms: u64) -> Vec<Load> {
        let loads = match choice {
            Choice::Split { prefill, decode } => {
                vec![(prefill.clone(), need.prompt()), (decode.clone(), need.generation())]
            }
            Choice::Whole { worker } => vec![(worker.clone(), need.prompt())],
        };
        for (worker, pending) in &loads {
            if let Some(seen) = self.seen.get_mut(worker) {
                seen.ledger.send(*pending, now_ms);
                seen.view.add(*pending, now_ms);
            }
        }
        loads
    }

    /// Takes back what is done or given up.
    pub(super) fn done(&mut self, loads: impl IntoIterator<Item = Load>, now_ms: u64) {
        for (worker, pending) in loads {
            if let Some(seen) = self.seen.get_mut(&worker)
                && let Some(left) = seen.ledger.done(pending)
            {
                seen.view.remove(left, now_ms);
            }
        }
    }
}
