//! The workers as the gateway sees them: their reported state, and the work sent since.

use std::collections::BTreeMap;

use protocol::{WorkerId, WorkerState};
use scheduling::route::{Choice, Ledger, Need, Pending, WorkerView};

/// A worker by its last report.
struct Seen {
    view: WorkerView,
    ledger: Ledger,
    epoch: u64,
    at_ms: u64,
}

/// Work sent to a worker.
pub(super) type Load = (WorkerId, Pending);

#[derive(Default)]
pub(super) struct Fleet {
    seen: BTreeMap<WorkerId, Seen>,
}

impl Fleet {
    /// Returns the epoch of the process that reported last.
    pub(super) fn epoch(&self, worker: &WorkerId) -> Option<u64> {
        self.seen.get(worker).map(|seen| seen.epoch)
    }

    pub(super) fn report(&mut self, state: &WorkerState, now_ms: u64) {
        let before = self.seen.remove(&state.worker);
        let mut ledger = before.map(|seen| seen.ledger).unwrap_or_default();
        let pending = ledger.unreported(state, now_ms);
        let mut view = WorkerView::new(state, pending, now_ms);
        view.assume(self.seen.values().map(|other| &other.view));
        let seen = Seen { view, ledger, epoch: state.epoch, at_ms: now_ms };
        self.seen.insert(state.worker.clone(), seen);
    }

    pub(super) fn forget(&mut self, worker: &WorkerId) {
        self.seen.remove(worker);
    }

    /// Returns the workers without a report since `since_ms`.
    pub(super) fn silent(&self, since_ms: u64) -> Vec<WorkerId> {
        let silent = self.seen.iter().filter(|(_, seen)| seen.at_ms < since_ms);
        silent.map(|(worker, _)| worker.clone()).collect()
    }

    pub(super) fn views(&self) -> Vec<WorkerView> {
        self.seen.values().map(|seen| seen.view.clone()).collect()
    }

    /// Counts the work of a placement until presence reports it.
    pub(super) fn send(&mut self, choice: &Choice, need: &Need, now_ms: u64) -> Vec<Load> {
        let loads = match choice {
            Choice::Split { prefill, decode } => {
                vec![(prefill.clone(), need.prompt()), (decode.clone(), need.generation())]
            }
            Choice::Whole { worker } => vec![(worker.clone(), need.prompt())],
        };
        for (worker, pending) in &loads {
            if let Some(seen) = self.seen.get_mut(worker) {
                seen.ledger.add(*pending, now_ms);
                seen.view.add(*pending, now_ms);
            }
        }
        loads
    }

    /// Takes back work that is done or given up.
    pub(super) fn done(&mut self, loads: impl IntoIterator<Item = Load>, now_ms: u64) {
        for (worker, pending) in loads {
            if let Some(seen) = self.seen.get_mut(&worker)
                && let Some(left) = seen.ledger.remove(pending)
            {
                seen.view.remove(left, now_ms);
            }
        }
    }
}
