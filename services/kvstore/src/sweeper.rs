//! Deletes evicted blocks from their streams, again and again until each is gone.

use std::time::Duration;

use bus::Blocks;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::shelf::Doomed;

/// Evictions that may wait; while the queue is full nothing more is evicted.
pub(crate) const SWEEPS_MAX: usize = 64;
/// Deletions under way at once: one takes a round trip, and they must keep up with puts.
const DELETIONS_MAX: usize = 16;
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// Blocks of one model to be deleted.
pub(crate) struct Sweep {
    pub(crate) blocks: Blocks,
    pub(crate) doomed: Vec<Doomed>,
}

/// Runs until the other end of `sweeps` is gone.
pub(crate) async fn run(mut sweeps: mpsc::Receiver<Sweep>) {
    let mut deletions = JoinSet::new();
    while let Some(Sweep { blocks, doomed }) = sweeps.recv().await {
        for doomed in doomed {
            while deletions.try_join_next().is_some() {}
            if DELETIONS_MAX <= deletions.len() {
                deletions.join_next().await;
            }
            deletions.spawn(delete(blocks.clone(), doomed));
        }
    }
}

async fn delete(blocks: Blocks, Doomed { block, through }: Doomed) {
    while let Err(error) = blocks.delete(block, through).await {
        tracing::warn!(%error, "evicted block is still in its stream");
        tokio::time::sleep(RETRY_AFTER).await;
    }
}
