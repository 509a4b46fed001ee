//! The store of blocks: names only, and who waits for which.

use std::collections::{BTreeMap, BTreeSet};

use protocol::{BlockHash, RequestKey, WorkerId};

use crate::fabric::Fabric;
use crate::message::{Envelope, ToStore, ToWorker};

/// Blocks stored, and pulls that wait for more.
#[derive(Default)]
pub(crate) struct Store {
    stored: BTreeSet<BlockHash>,
    pulls: BTreeMap<(WorkerId, RequestKey), BTreeSet<BlockHash>>,
}

impl Store {
    pub(crate) fn blocks(&self) -> usize {
        self.stored.len()
    }

    pub(crate) fn receive(&mut self, message: ToStore, fabric: &mut Fabric) {
        let answer = |worker, message| Envelope::ToWorker(worker, message);
        match message {
            ToStore::Put { from, key, blocks } => {
                let count = blocks.len();
                self.stored.extend(blocks);
                fabric.send(answer(from, ToWorker::PutDone(key, count)));
                self.serve_pulls(fabric);
            }
            ToStore::Lookup { from, key, blocks } => {
                let stored = blocks.iter().take_while(|block| self.stored.contains(*block)).count();
                fabric.send(answer(from, ToWorker::Found { key, stored }));
            }
            ToStore::Pull { from, key, blocks } => {
                self.pulls.insert((from, key), blocks.into_iter().collect());
                self.serve_pulls(fabric);
            }
        }
    }

    /// A pull gets what is stored at once and the rest as it comes; then it is over.
    fn serve_pulls(&mut self, fabric: &mut Fabric) {
        let stored = &self.stored;
        self.pulls.retain(|(worker, key), wanted| {
            let ready: Vec<BlockHash> = wanted.intersection(stored).copied().collect();
            if !ready.is_empty() {
                wanted.retain(|block| !stored.contains(block));
                let message = ToWorker::Stored { key: *key, blocks: ready };
                fabric.send(Envelope::ToWorker(worker.clone(), message));
            }
            !wanted.is_empty()
        });
    }

    /// The pulls of a dead worker end with its connection.
    pub(crate) fn forget(&mut self, worker: &WorkerId) {
        self.pulls.retain(|(other, _), _| other != worker);
    }
}
