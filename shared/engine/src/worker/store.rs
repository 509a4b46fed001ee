//! Puts sealed blocks into the store, and hands a prompt over once its blocks are stored.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bus::NewBlock;
use protocol::{Backoff, BlockHash, Leg, PromptDone, Release, RequestKey, Scope};
use tokio::sync::{Semaphore, mpsc};

use super::{Worker, stages};
use crate::events::BlockEvent;

/// Upload of one worker under way; the bus bounds their bytes.
const PUTS_MAX: usize = 64;
const HANDOVER_TRIES: u32 = 3;
const HANDOVER_BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(200), max: Duration::from_secs(1) };
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(1);
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// Uploads the blocks of the step loop until it ends.
pub(super) async fn run(worker: Arc<Worker>, mut blocks: mpsc::Receiver<BlockEvent>) {
    let permits = Arc::new(Semaphore::new(PUTS_MAX));
    while let Some(event) = blocks.recv().await {
        match event {
            BlockEvent::Sealed { key, hash, tokens, bytes } => {
                let Ok(permit) = permits.clone().acquire_owned().await else { return };
                let Some(scope) = worker.start_put(&key) else { continue };
                let owner = worker.clone();
                worker.task_set.spawn(async move {
                    let stored = put(&owner, key, NewBlock { hash, tokens, scope, bytes }).await;
                    drop(permit);
                    owner.end_put(&key, hash, stored);
                });
            }
            BlockEvent::Dropped { key, hash } => {
                if worker.start_put(&key).is_some() {
                    worker.end_put(&key, hash, None);
                }
            }
            BlockEvent::Complete { key } => worker.complete_upload(&key),
        }
    }
}

/// Stores one block; returns its bytes once it is stored.
async fn put(worker: &Worker, key: RequestKey, block: NewBlock) -> Option<u64> {
    let to = {
        let registry = worker.registry();
        let entry = registry.get(&key)?;
        match &entry.leg {
            Leg::Prefill { decode } if worker.listens_for(entry.tokens) => Some(decode.clone()),
            Leg::Prefill { .. } | Leg::Decode { .. } | Leg::Whole => None,
        }
    };
    let bytes = block.bytes.len() as u64;
    match worker.blocks.put(to.as_ref(), block).await {
        Ok(_) => Some(bytes),
        Err(error) => {
            let trace_id = worker.trace_id(&key);
            tracing::warn!(request = %key.request, trace_id, %error, "failed to put a block");
            None
        }
    }
}

impl Worker {
    /// Counts a put that starts and returns its scope; `None` for a request that is no longer
    /// registered.
    fn start_put(&self, key: &RequestKey) -> Option<Scope> {
        let mut registry = self.registry();
        let entry = registry.get_mut(key)?;
        entry.upload.outstanding += 1;
        entry.stage_times.first_put.get_or_insert(SystemTime::now());
        Some(entry.scope)
    }

    fn end_put(self: &Arc<Self>, key: &RequestKey, hash: BlockHash, stored: Option<u64>) {
        self.metrics.put(stored);
        if let Some(entry) = self.registry().get_mut(key) {
            entry.upload.outstanding -= 1;
            match stored {
                Some(bytes) => {
                    entry.upload.stored += 1;
                    entry.upload.bytes += bytes;
                }
                None => entry.upload.failed.push(hash),
            }
        }
        self.hand_over_when_stored(key);
    }

    fn complete_upload(self: &Arc<Self>, key: &RequestKey) {
        if let Some(entry) = self.registry().get_mut(key) {
            entry.upload.complete = true;
        }
        self.hand_over_when_stored(key);
    }

    pub(super) fn hand_over_when_stored(self: &Arc<Self>, key: &RequestKey) {
        let done = {
            let mut registry = self.registry();
            let Some(entry) = registry.get_mut(key).filter(|entry| entry.ended.is_none()) else {
                return;
            };
            let (Leg::Prefill { decode }, Some((first_token, finished))) =
                (&entry.leg, entry.chosen)
            else {
                return;
            };
            if !entry.upload.complete || entry.upload.outstanding > 0 {
                return;
            }
            let done = PromptDone {
                key: *key,
                prefill: self.id.clone(),
                first_token,
                finished,
                unstored: std::mem::take(&mut entry.upload.failed),
            };
            stages::uploaded(entry, done.unstored.len(), SystemTime::now());
            (decode.clone(), done)
        };
        let owner = self.clone();
        self.task_set.spawn(async move {
            let (decode, done) = done;
            let key = done.key;
            hand_over(&owner, &decode, done).await;
            owner.registry().end(&key, Instant::now());
        });
    }

    /// Releases the lease on the blocks of a request, if it holds one.
    pub(super) fn release_lease(self: &Arc<Self>, key: RequestKey) {
        let was_leased = match self.registry().get_mut(&key) {
            Some(entry) => std::mem::take(&mut entry.leased),
            None => false,
        };
        if !was_leased {
            return;
        }
        let owner = self.clone();
        self.task_set.spawn(async move {
            let release = Release { fingerprint: owner.fingerprint, key };
            let context = owner.context(&key);
            // A lease that is not released expires by itself.
            if let Err(error) = owner.bus.ask_store(&release, &context, RELEASE_TIMEOUT).await {
                tracing::debug!(request = %key.request, %error, "failed to release a store lease");
            }
        });
    }
}

async fn hand_over(worker: &Worker, decode: &protocol::WorkerId, done: PromptDone) {
    let context = worker.context(&done.key);
    for failures in 0..HANDOVER_TRIES {
        match worker.bus.ask_worker(decode, &done, &context, HANDOVER_TIMEOUT).await {
            Ok(_) => return,
            Err(error) => {
                let (request, trace_id) = (done.key.request, worker.trace_id(&done.key));
                let tries = failures + 1;
                tracing::warn!(%request, trace_id, %decode, tries, %error, "failed to hand over");
                tokio::time::sleep(HANDOVER_BACKOFF.delay(failures)).await;
            }
        }
    }
    // The gateway detects a dead decode worker by itself and sends the request to another one.
    worker.metrics.handover_failed();
}
