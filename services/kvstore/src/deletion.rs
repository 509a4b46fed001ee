//! Deletes evicted blocks from their streams and retries until each is gone.

use std::time::Duration;

use bus::Blocks;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::stream_index::Eviction;

/// Batches that may wait; while the queue is full nothing more is evicted.
pub(crate) const BATCHES_MAX: usize = 64;
/// Concurrent deletions: one takes a round trip, and they must keep up with puts.
const DELETIONS_MAX: usize = 16;
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// Blocks of one model to delete.
pub(crate) struct DeleteBatch {
    pub(crate) blocks: Blocks,
    pub(crate) evictions: Vec<Eviction>,
}

/// Deletes batch after batch until the other end of `batches` is gone.
pub(crate) async fn run(mut batches: mpsc::Receiver<DeleteBatch>) {
    let mut deletions = JoinSet::new();
    while let Some(DeleteBatch { blocks, evictions }) = batches.recv().await {
        for eviction in evictions {
            while deletions.try_join_next().is_some() {}
            if deletions.len() >= DELETIONS_MAX {
                deletions.join_next().await;
            }
            deletions.spawn(delete(blocks.clone(), eviction));
        }
    }
}

async fn delete(blocks: Blocks, Eviction { hash, through }: Eviction) {
    while let Err(error) = blocks.delete(hash, through).await {
        tracing::warn!(%hash, %error, "failed to delete an evicted block, retrying");
        tokio::time::sleep(RETRY_AFTER).await;
    }
}
