//! Pulls blocks by hash: stored ones arrive at once, missing ones when they are stored.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_nats::jetstream;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use futures::FutureExt as _;
use futures::future::select_all;
use protocol::{BlockHash, Subject};
use tokio::time::{Instant, sleep_until};

use super::Blocks;
use super::assemble::{Accepted, Assembly};
use super::index::frame_of;
use crate::connect::{ConnectError, Link};
use crate::follow::{Followed, Follower, OpenError, Opening, Reader, Selection};

/// Most blocks of one consumer.
const FILTERS_MAX: usize = 256;
/// Open consumers of one pull; later blocks wait for earlier ones.
const OPEN_MAX: usize = 4;
/// Bytes per request of a pull that runs alone.
const BATCH_BYTES: usize = 8 << 20;
/// Bytes per request of all pulls of a process together: far below the point at which the server
/// cuts a slow connection off.
const BATCHES_BYTES: usize = 32 << 20;
/// Must hold the largest frame, its headers and its subject.
const BATCH_BYTES_MIN: usize = 2560 << 10;

/// A whole, verified block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PulledBlock {
    /// Its hash.
    pub hash: BlockHash,
    /// Tokens in it: 16, or fewer for a tail.
    pub tokens: u32,
    /// The KV of all layers.
    pub bytes: Vec<u8>,
}

/// A transfer of blocks, or one block of it, that failed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum PullError {
    /// The download connection could not be made.
    #[error("pull blocks: {0}")]
    Connect(#[from] ConnectError),
    /// The model has no stream.
    #[error("pull blocks: stream {0} does not exist")]
    NoStream(String),
    /// The first consumer could not be created.
    #[error("pull blocks: {0}")]
    Failed(String),
    /// The stored block cannot be used. It counts as missing, and the kvstore discards it.
    #[error("block {hash} is damaged: {why}")]
    Damaged { hash: BlockHash, why: String },
}

impl PullError {
    /// Returns what the failure means for the request that needs the blocks: computing them is always
    /// possible.
    pub fn class(&self) -> protocol::ErrorClass {
        protocol::ErrorClass::Retry
    }
}

/// A running pull. Dropping it abandons the rest and deletes its consumers.
pub struct Pull {
    blocks: Blocks,
    link: Link,
    groups: Vec<Group>,
    arriving: BTreeMap<BlockHash, Assembly>,
    finish_by: Option<Instant>,
    active: Active,
}

/// The blocks of one consumer.
struct Group {
    missing: BTreeSet<BlockHash>,
    follower: Follower,
}

impl Blocks {
    /// Starts to pull `wanted`, each hash once.
    ///
    /// Returns once the first consumer is created, so that a missing stream shows here.
    pub async fn pull(&self, wanted: Vec<BlockHash>) -> Result<Pull, PullError> {
        let link = self.bus.inner.download().await?.clone();
        let wanted: Vec<_> = {
            let mut seen = BTreeSet::new();
            wanted.into_iter().filter(|block| seen.insert(*block)).collect()
        };
        let groups = wanted.chunks(FILTERS_MAX).map(|hashes| Group {
            missing: hashes.iter().copied().collect(),
            follower: Follower::new(&link),
        });
        let mut pull = Pull {
            active: Active::new(&self.bus.inner.pulls),
            blocks: self.clone(),
            groups: groups.collect(),
            link,
            arriving: BTreeMap::new(),
            finish_by: None,
        };
        pull.opened().await?;
        Ok(pull)
    }
}

impl Pull {
    /// Returns the next whole block, in the order of arrival, or an error for a damaged one, which is
    /// then no longer awaited. Returns `None` once all have arrived or the time of
    /// [`Self::finish_by`] is over. Safe to abandon.
    pub async fn next(&mut self) -> Option<Result<PulledBlock, PullError>> {
        loop {
            self.groups.retain(|group| !group.missing.is_empty());
            if self.groups.is_empty() {
                return None;
            }
            let finish_by = self.finish_by;
            let message = tokio::select! {
                biased;
                message = self.message() => message,
                () = sleep_until(finish_by.unwrap_or_else(Instant::now)), if finish_by.is_some() => {
                    self.groups.iter_mut().for_each(|group| group.follower.close());
                    return None;
                }
            };
            if let Some(arrived) = self.accept(&message) {
                return Some(arrived);
            }
        }
    }

    /// Limits the wait for missing blocks to `deadline`.
    pub fn finish_by(&mut self, deadline: Instant) {
        self.finish_by = Some(deadline);
    }

    /// Returns the blocks that have not arrived.
    pub fn missing(&self) -> impl Iterator<Item = BlockHash> {
        self.groups.iter().flat_map(|group| group.missing.iter().copied())
    }

    /// Waits until the first consumer is created or fails.
    async fn opened(&mut self) -> Result<(), PullError> {
        let Self { groups, blocks, link, active, .. } = self;
        let Some(first) = groups.first_mut() else { return Ok(()) };
        match first.next(blocks, link, active).await {
            Followed::Opened { .. } | Followed::Message(_) => Ok(()),
            Followed::Failed(OpenError::NoStream(stream)) => Err(PullError::NoStream(stream)),
            Followed::Failed(error) => Err(PullError::Failed(error.to_string())),
        }
    }

    /// Returns the next message of the groups that may be open.
    async fn message(&mut self) -> Box<jetstream::Message> {
        let Self { groups, blocks, link, active, .. } = self;
        let open = groups.iter_mut().take(OPEN_MAX);
        let messages = open.map(|group| group.message(blocks, link, active).boxed());
        select_all(messages).await.0
    }

    fn accept(&mut self, message: &jetstream::Message) -> Option<Result<PulledBlock, PullError>> {
        let counters = Arc::clone(&self.blocks.bus.inner.counters);
        let subject = message.subject.as_str();
        let named = protocol::subject::parse_stored(subject).map(|(_, block, _)| block);
        let accepted = match frame_of(message, self.blocks.namespace()) {
            Ok((block, _)) if !self.waits_for(block) => return None,
            Ok((block, header)) => {
                self.arriving.entry(block).or_default().accept(block, &header, &message.payload)
            }
            Err((reason, why)) => Accepted::Refused(reason, why),
        };
        match accepted {
            Accepted::Part => None,
            Accepted::Whole(block) => {
                self.settle(block.hash);
                counters.pulled(block.bytes.len());
                Some(Ok(block))
            }
            Accepted::Refused(reason, why) => {
                counters.drop_message(reason, subject, &why);
                let block = named.filter(|block| self.waits_for(*block))?;
                self.settle(block);
                self.blocks.report_damaged(block);
                Some(Err(PullError::Damaged { hash: block, why }))
            }
        }
    }

    fn waits_for(&self, block: BlockHash) -> bool {
        self.groups.iter().any(|group| group.missing.contains(&block))
    }

    fn settle(&mut self, block: BlockHash) {
        self.arriving.remove(&block);
        for group in &mut self.groups {
            group.missing.remove(&block);
        }
    }
}

impl Group {
    async fn message(
        &mut self,
        blocks: &Blocks,
        link: &Link,
        active: &Active,
    ) -> Box<jetstream::Message> {
        loop {
            match self.next(blocks, link, active).await {
                Followed::Message(message) => return message,
                Followed::Failed(error) => {
                    let missing = self.missing.len();
                    tracing::warn!(%error, missing, "pull interrupted, retrying");
                }
                Followed::Opened { .. } => {}
            }
        }
    }

    async fn next(&mut self, blocks: &Blocks, link: &Link, active: &Active) -> Followed {
        let missing = &self.missing;
        self.follower.next(|| open(missing, blocks, link, active)).await
    }
}

fn open(missing: &BTreeSet<BlockHash>, blocks: &Blocks, link: &Link, active: &Active) -> Opening {
    let namespace = blocks.namespace();
    let filters =
        missing.iter().map(|&block| Subject::Stored { namespace, block, frame: None }.to_string());
    let selection = Selection {
        stream: blocks.stream(),
        config: pull::Config {
            deliver_policy: DeliverPolicy::LastPerSubject,
            filter_subjects: filters.collect(),
            ..Default::default()
        },
        batch_bytes: active.batch_bytes(),
        pace: None,
    };
    Box::pin(Reader::open(link.clone(), blocks.bus.inner.deferred.queue(), selection))
}

/// The count of running pulls, which share the bytes per request.
struct Active {
    pulls: Arc<AtomicUsize>,
}

impl Active {
    fn new(pulls: &Arc<AtomicUsize>) -> Self {
        pulls.fetch_add(1, Ordering::Relaxed);
        Self { pulls: Arc::clone(pulls) }
    }

    fn batch_bytes(&self) -> usize {
        let share = BATCHES_BYTES / self.pulls.load(Ordering::Relaxed).max(1);
        share.clamp(BATCH_BYTES_MIN, BATCH_BYTES)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.pulls.fetch_sub(1, Ordering::Relaxed);
    }
}
