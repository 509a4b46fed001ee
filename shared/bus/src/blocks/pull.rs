//! Pulls blocks by name: what is stored comes at once, what is missing comes when it is stored.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{self, Poll};

use async_nats::jetstream;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use futures::FutureExt as _;
use protocol::{BlockHash, Subject};
use tokio::time::{Instant, Sleep};

use super::Blocks;
use super::assemble::{Accepted, Assembly};
use super::index::frame_of;
use crate::connect::{ConnectError, Link};
use crate::follow::{Followed, Follower, OpenError, Opening, Reader, Selection};

/// Most blocks one consumer waits for.
const FILTERS_MAX: usize = 256;
/// Consumers of one pull that are open at once; later blocks wait for earlier ones.
const OPEN_MAX: usize = 4;
/// Bytes asked for at once by a pull that is alone.
const BATCH_BYTES: usize = 8 << 20;
/// Bytes that all pulls of a process ask for together: far below what makes the server cut a slow
/// connection off.
const BATCHES_BYTES: usize = 32 << 20;
/// Must hold the largest frame, its headers and its subject.
const BATCH_BYTES_MIN: usize = 2560 << 10;

/// A block pulled whole and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PulledBlock {
    /// Its name.
    pub hash: BlockHash,
    /// Tokens in it: 16, or fewer for a tail.
    pub tokens: u32,
    /// The KV of all layers.
    pub bytes: Vec<u8>,
}

/// Why a pull, or one block of it, brings nothing.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The download connection could not be made.
    #[error("pull blocks: {0}")]
    Connect(#[from] ConnectError),
    /// The model has no stream.
    #[error("pull blocks: stream {0} does not exist")]
    NoStream(String),
    /// The first consumer could not be made.
    #[error("pull blocks: {0}")]
    Failed(String),
    /// What is stored under this name cannot be used. It counts as missing, and the kvstore is
    /// told to forget it.
    #[error("block {block} is damaged: {why}")]
    Damaged {
        /// Which.
        block: BlockHash,
        /// What is wrong with it.
        why: String,
    },
}

impl PullError {
    /// What it means for the request that needs the blocks: computing them is always possible.
    pub fn class(&self) -> protocol::ErrorClass {
        protocol::ErrorClass::Retry
    }
}

/// Blocks on their way here. Dropping it gives the rest up and deletes its consumers.
pub struct Pull {
    blocks: Blocks,
    link: Link,
    groups: Vec<Group>,
    arriving: BTreeMap<BlockHash, Assembly>,
    finish_by: Option<Pin<Box<Sleep>>>,
    active: Active,
}

/// Blocks that one consumer brings.
struct Group {
    missing: BTreeSet<BlockHash>,
    follower: Follower,
}

impl Blocks {
    /// Starts to pull `wanted`, each name once.
    ///
    /// Returns when the first consumer is made, so that the absence of the stream shows here.
    pub async fn pull(&self, wanted: Vec<BlockHash>) -> Result<Pull, PullError> {
        let link = self.bus.inner.download().await?.clone();
        let wanted: Vec<_> = {
            let mut seen = BTreeSet::new();
            wanted.into_iter().filter(|block| seen.insert(*block)).collect()
        };
        let group = |blocks: &[BlockHash]| Group {
            missing: blocks.iter().copied().collect(),
            follower: Follower::new(&link),
        };
        let mut pull = Pull {
            active: Active::new(&self.bus.inner.pulls),
            blocks: self.clone(),
            groups: wanted.chunks(FILTERS_MAX).map(group).collect(),
            link,
            arriving: BTreeMap::new(),
            finish_by: None,
        };
        pull.opened().await?;
        Ok(pull)
    }
}

impl Pull {
    /// The next whole block, in the order of arrival; an error for a block that is there but
    /// damaged, which is then no longer waited for; `None` when all have arrived or the time of
    /// [`Self::finish_by`] is over. Safe to abandon.
    pub async fn next(&mut self) -> Option<Result<PulledBlock, PullError>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// From now on waits no longer than until `deadline` for what is missing.
    pub fn finish_by(&mut self, deadline: Instant) {
        self.finish_by = Some(Box::pin(tokio::time::sleep_until(deadline)));
    }

    /// Blocks that have not arrived.
    pub fn missing(&self) -> impl Iterator<Item = BlockHash> {
        self.groups.iter().flat_map(|group| group.missing.iter().copied())
    }

    /// Waits for the first consumer, or for what prevents it.
    async fn opened(&mut self) -> Result<(), PullError> {
        let Self { groups, blocks, link, active, .. } = self;
        let Some(first) = groups.first_mut() else { return Ok(()) };
        let polled = poll_fn(|cx| first.poll(cx, blocks, link, active)).await;
        match polled {
            Followed::Opened { .. } | Followed::Message(_) => Ok(()),
            Followed::Failed(OpenError::NoStream(stream)) => Err(PullError::NoStream(stream)),
            Followed::Failed(error) => Err(PullError::Failed(error.to_string())),
        }
    }

    fn poll_next(
        &mut self,
        cx: &mut task::Context<'_>,
    ) -> Poll<Option<Result<PulledBlock, PullError>>> {
        loop {
            self.groups.retain(|group| !group.missing.is_empty());
            if self.groups.is_empty() {
                return Poll::Ready(None);
            }
            match self.poll_groups(cx) {
                Poll::Ready(message) => {
                    if let Some(arrived) = self.accept(&message) {
                        return Poll::Ready(Some(arrived));
                    }
                }
                Poll::Pending => {
                    let over = self.finish_by.as_mut().map(|sleep| sleep.poll_unpin(cx));
                    if over.is_some_and(|over| over.is_ready()) {
                        self.groups.iter_mut().for_each(|group| group.follower.close());
                        return Poll::Ready(None);
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    fn poll_groups(&mut self, cx: &mut task::Context<'_>) -> Poll<Box<jetstream::Message>> {
        let Self { groups, blocks, link, active, .. } = self;
        for group in groups.iter_mut().take(OPEN_MAX) {
            loop {
                match group.poll(cx, blocks, link, active) {
                    Poll::Ready(Followed::Message(message)) => return Poll::Ready(message),
                    Poll::Ready(Followed::Failed(error)) => {
                        tracing::warn!(%error, missing = group.missing.len(), "pull goes on anew");
                    }
                    Poll::Ready(Followed::Opened { .. }) => {}
                    Poll::Pending => break,
                }
            }
        }
        Poll::Pending
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
                Some(Err(PullError::Damaged { block, why }))
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
    fn poll(
        &mut self,
        cx: &mut task::Context<'_>,
        blocks: &Blocks,
        link: &Link,
        active: &Active,
    ) -> Poll<Followed> {
        let missing = &self.missing;
        self.follower.poll(cx, || open(missing, blocks, link, active))
    }
}

fn open(missing: &BTreeSet<BlockHash>, blocks: &Blocks, link: &Link, active: &Active) -> Opening {
    let namespace = blocks.namespace();
    let filter = |block| Subject::Stored { namespace, block, frame: None }.to_string();
    let selection = Selection {
        stream: blocks.stream(),
        config: pull::Config {
            deliver_policy: DeliverPolicy::LastPerSubject,
            filter_subjects: missing.iter().copied().map(filter).collect(),
            ..Default::default()
        },
        batch_bytes: active.batch_bytes(),
        pace: None,
    };
    Box::pin(Reader::open(link.clone(), blocks.bus.inner.errands.queue(), selection))
}

/// Counts the pulls under way, which share what may be asked for at once.
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
