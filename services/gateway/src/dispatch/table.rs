//! The generations in flight: the inbox of each one's task, and the workers with a lease for it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use protocol::{RequestId, RequestKey, WorkerId};
use scheduling::journey::Input;
use tokio::sync::mpsc;

/// The table of generations. Locked for a few map operations at a time, never across an await.
#[derive(Default)]
pub(super) struct Table {
    entries: Mutex<HashMap<RequestId, Entry>>,
}

struct Entry {
    inbox: mpsc::Sender<Input>,
    /// The current attempt and the workers that hold a lease for it.
    holders: Option<(RequestKey, Vec<WorkerId>)>,
}

impl Table {
    fn entries(&self) -> MutexGuard<'_, HashMap<RequestId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn len(&self) -> usize {
        self.entries().len()
    }

    /// Adds a generation. Returns false if `inflight_max` are in flight already, or this very one.
    pub(super) fn insert(
        &self,
        request: RequestId,
        inbox: mpsc::Sender<Input>,
        inflight_max: usize,
    ) -> bool {
        let mut entries = self.entries();
        if entries.len() >= inflight_max || entries.contains_key(&request) {
            return false;
        }
        entries.insert(request, Entry { inbox, holders: None });
        true
    }

    pub(super) fn remove(&self, request: RequestId) {
        self.entries().remove(&request);
    }

    /// Sets the workers that hold a lease for an attempt.
    pub(super) fn set_holders(&self, key: RequestKey, holders: Vec<WorkerId>) {
        if let Some(entry) = self.entries().get_mut(&key.request) {
            entry.holders = Some((key, holders));
        }
    }

    /// Sends inputs to their generations; returns the number of inputs that belong to none.
    ///
    /// A full inbox drops its input: tokens are requested again as a gap, the rest comes again with the
    /// next renewal.
    pub(super) fn send(&self, inputs: impl IntoIterator<Item = (RequestId, Input)>) -> u64 {
        let entries = self.entries();
        let mut unknown = 0;
        for (request, input) in inputs {
            let Some(entry) = entries.get(&request) else {
                unknown += 1;
                continue;
            };
            if let Err(error) = entry.inbox.try_send(input) {
                tracing::debug!(%request, %error, "dropped an input");
            }
        }
        unknown
    }

    /// Sends an input to every generation.
    pub(super) fn broadcast(&self, input: impl Fn(RequestId) -> Input) {
        for (request, entry) in self.entries().iter() {
            if let Err(error) = entry.inbox.try_send(input(*request)) {
                tracing::debug!(%request, %error, "dropped an input");
            }
        }
    }

    /// Returns the attempts by the workers that hold a lease for them.
    pub(super) fn keys_by_worker(&self) -> BTreeMap<WorkerId, Vec<RequestKey>> {
        let mut keys: BTreeMap<WorkerId, Vec<RequestKey>> = BTreeMap::new();
        for (key, holders) in self.entries().values().filter_map(|entry| entry.holders.as_ref()) {
            for worker in holders {
                keys.entry(worker.clone()).or_default().push(*key);
            }
        }
        keys
    }
}
