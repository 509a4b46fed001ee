//! Puts sealed blocks into the store, and hands a prompt over once its blocks are in.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bus::NewBlock;
use bytes::Bytes;
use protocol::{Backoff, BlockHash, Leg, PromptDone, Release, RequestKey};
use tokio::sync::{Semaphore, mpsc};

use super::registry::Entry;
use super::{Worker, stages};
use crate::events::BlockEvent;

/// Puts of one worker under way; the bus bounds their bytes.
const PUTS_MAX: usize = 64;
const HANDOVER_TRIES: u32 = 3;
const HANDOVER_BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(200), max: Duration::from_secs(1) };
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(1);
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// Takes blocks from the step loop until it ends.
pub(super) async fn run(worker: Arc<Worker>, mut blocks: mpsc::Receiver<BlockEvent>) {
    let permits = Arc::new(Semaphore::new(PUTS_MAX));
    while let Some(event) = blocks.recv().await {
        match event {
            BlockEvent::Sealed { key, name, tokens, bytes } => {
                let Ok(permit) = permits.clone().acquire_owned().await else { return };
                if !worker.put_starts(&key) {
                    continue;
                }
                let owner = worker.clone();
                worker.crew.spawn(async move {
                    let stored = put(&owner, key, name, tokens, bytes).await;
                    drop(permit);
                    owner.put_ends(&key, name, stored);
                });
            }
            BlockEvent::Unstored { key, name } => {
                if worker.put_starts(&key) {
                    worker.put_ends(&key, name, None);
                }
            }
            BlockEvent::Complete { key } => worker.puts_complete(&key),
        }
    }
}

/// Stores one block; gives its bytes when it is in.
async fn put(
    worker: &Worker,
    key: RequestKey,
    name: BlockHash,
    tokens: u32,
    bytes: Bytes,
) -> Option<u64> {
    let (to, scope) = {
        let registry = worker.registry();
        let entry = registry.get(&key)?;
        let to = match &entry.leg {
            Leg::Prefill { decode } if worker.listens_for(entry.tokens) => Some(decode.clone()),
            Leg::Prefill { .. } | Leg::Decode { .. } | Leg::Whole => None,
        };
        (to, entry.scope)
    };
    let size = bytes.len() as u64;
    match worker.blocks.put(to.as_ref(), NewBlock { hash: name, tokens, scope, bytes }).await {
        Ok(_) => Some(size),
        Err(error) => {
            let trace_id = worker.trace_id(&key);
            tracing::warn!(request = %key.request, trace_id, %name, %error, "block not stored");
            None
        }
    }
}

impl Worker {
    /// False for a request that is not here any more: its blocks have no scope to go under.
    fn put_starts(&self, key: &RequestKey) -> bool {
        let mut registry = self.registry();
        let Some(entry) = registry.get_mut(key) else { return false };
        entry.puts.outstanding += 1;
        entry.marks.first_put.get_or_insert(SystemTime::now());
        true
    }

    fn put_ends(self: &Arc<Self>, key: &RequestKey, name: BlockHash, stored: Option<u64>) {
        self.metrics.put(stored);
        if let Some(entry) = self.registry().get_mut(key) {
            entry.puts.outstanding -= 1;
            match stored {
                Some(bytes) => {
                    entry.puts.stored += 1;
                    entry.puts.bytes += bytes;
                }
                None => entry.puts.unstored.push(name),
            }
        }
        self.hand_over_when_stored(key);
    }

    fn puts_complete(self: &Arc<Self>, key: &RequestKey) {
        if let Some(entry) = self.registry().get_mut(key) {
            entry.puts.complete = true;
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
            if !entry.puts.complete || 0 < entry.puts.outstanding {
                return;
            }
            let done = PromptDone {
                key: *key,
                prefill: self.id.clone(),
                first_token,
                finished,
                unstored: std::mem::take(&mut entry.puts.unstored),
            };
            stages::stored(entry, done.unstored.len(), SystemTime::now());
            (decode.clone(), done)
        };
        let owner = self.clone();
        self.crew.spawn(async move {
            let (decode, done) = done;
            let key = done.key;
            hand_over(&owner, &decode, done).await;
            owner.registry().end(&key, Instant::now());
        });
    }

    /// Lets the store forget that a request reads its blocks, if it remembers.
    pub(super) fn release_lease(self: &Arc<Self>, key: RequestKey) {
        let leased = |entry: &mut Entry| std::mem::take(&mut entry.leased);
        if !self.registry().get_mut(&key).is_some_and(leased) {
            return;
        }
        let owner = self.clone();
        self.crew.spawn(async move {
            let release = Release { fingerprint: owner.fingerprint, key };
            let context = owner.context(&key);
            // A lease that is not released runs out by itself.
            if let Err(error) = owner.bus.ask_store(&release, &context, RELEASE_TIMEOUT).await {
                tracing::debug!(request = %key.request, %error, "store lease not released");
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
    // The gateway notices a dead decode worker by itself and sends the request elsewhere.
    worker.metrics.handover_failed();
}
