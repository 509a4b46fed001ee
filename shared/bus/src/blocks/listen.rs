//! Listens for blocks as they are put: a worker subscribes to the subjects of the blocks meant for it.
//!
//! A hint, never the truth: a block that is lost on this path, because the worker reads slowly or the
//! connection breaks, is in the stream and is fetched from there.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_nats::{Message, Subscriber};
use futures::StreamExt as _;
use protocol::subject::{parse_put, put_to};
use protocol::{BlockHash, WorkerId};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::assemble::{Accepted, Assembly};
use super::index::frame_with_header;
use super::{Blocks, PulledBlock};
use crate::connect::ConnectError;
use crate::messages::{SubscribeError, round_trip, subscribe};

/// Most bytes of a sequence's blocks that are listened for: there is no flow control except that the
/// worker drops blocks, and the server cuts a slow reader off at 128 MB. Larger sequences are pulled.
pub const LISTEN_BYTES_MAX: usize = 48 << 20;
/// Most bytes of blocks that arrived before anything expected them.
const BUFFERED_BYTES_MAX: usize = 64 << 20;
/// Most blocks of which some frames are missing.
const ARRIVING_MAX: usize = 32;

/// A worker that cannot listen for blocks.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The download connection could not be made.
    #[error("listen to blocks: {0}")]
    Connect(#[from] ConnectError),
    /// The subscription was refused.
    #[error("listen to blocks: {0}")]
    Subscribe(#[from] SubscribeError),
}

/// A worker's subscription to the blocks put for it. Cheap to clone; it ends with the last clone.
#[derive(Clone)]
pub struct BlockSubscription {
    shared: Arc<Shared>,
    _listening: Arc<JoinSet<()>>,
}

struct Shared {
    blocks: Blocks,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The expectations of each block.
    expected: HashMap<BlockHash, Vec<(u64, mpsc::Sender<PulledBlock>)>>,
    expectations: u64,
    buffered: HashMap<BlockHash, PulledBlock>,
    /// The buffered blocks in the order of arrival; some may have been taken.
    order: VecDeque<BlockHash>,
    buffered_bytes: usize,
    arriving: BTreeMap<BlockHash, Assembly>,
}

/// Blocks that a sequence waits for.
pub struct Expectation {
    subscription: BlockSubscription,
    number: u64,
    hashes: Vec<BlockHash>,
    arrivals: mpsc::Receiver<PulledBlock>,
}

impl Blocks {
    /// Subscribes to the blocks put for `worker`. When it returns, the server has the subscription.
    ///
    /// # Errors
    /// Without a download connection, or when the subscription is refused.
    pub async fn subscribe(&self, worker: &WorkerId) -> Result<BlockSubscription, ListenError> {
        let link = self.bus.inner.download().await?;
        let subject = put_to(worker, self.namespace());
        let messages = subscribe(&link.client, &subject, None).await?;
        round_trip(&link.client).await?;
        let shared = Arc::new(Shared { blocks: self.clone(), state: Mutex::default() });
        let mut listening = JoinSet::new();
        listening.spawn(listen(shared.clone(), messages));
        Ok(BlockSubscription { shared, _listening: Arc::new(listening) })
    }
}

async fn listen(shared: Arc<Shared>, mut messages: Subscriber) {
    while let Some(message) = messages.next().await {
        shared.accept(&message);
    }
}

impl BlockSubscription {
    /// Delivers the blocks with these hashes to the returned expectation, buffered ones first. Other
    /// expectations of the same blocks get them, too.
    pub fn expect(&self, hashes: Vec<BlockHash>) -> Expectation {
        let (sender, arrivals) = mpsc::channel(hashes.len().max(1));
        let mut state = self.shared.state();
        state.expectations += 1;
        let number = state.expectations;
        for hash in &hashes {
            match state.take(hash) {
                Some(block) => drop(sender.try_send(block)),
                None => state.expected.entry(*hash).or_default().push((number, sender.clone())),
            }
        }
        drop(state);
        Expectation { subscription: self.clone(), number, hashes, arrivals }
    }
}

impl Expectation {
    /// Returns the next block; `None` once all have arrived. Safe to abandon.
    pub async fn next(&mut self) -> Option<PulledBlock> {
        self.arrivals.recv().await
    }
}

impl Drop for Expectation {
    fn drop(&mut self) {
        let mut state = self.subscription.shared.state();
        for hash in &self.hashes {
            if let Some(waiting) = state.expected.get_mut(hash) {
                waiting.retain(|(number, _)| *number != self.number);
                if waiting.is_empty() {
                    state.expected.remove(hash);
                }
            }
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts a frame; a block that is not whole and sound is left to be fetched.
    fn accept(&self, message: &Message) {
        let counters = &self.blocks.bus.inner.counters;
        let subject = message.subject.as_str();
        let found = frame_with_header(parse_put(subject), message.headers.as_ref());
        let (block, header) = match found {
            Ok(found) => found,
            Err((reason, why)) => return counters.drop_message(reason, subject, &why),
        };
        let mut assembly = match header.frames {
            1 => Assembly::default(),
            _ => self.state().arriving.remove(&block).unwrap_or_default(),
        };
        // Checked and copied without the lock.
        match assembly.accept(block, &header, &message.payload) {
            Accepted::Part => {
                let mut state = self.state();
                state.arriving.insert(block, assembly);
                while state.arriving.len() > ARRIVING_MAX {
                    state.arriving.pop_first();
                }
            }
            Accepted::Whole(block) => {
                counters.pulled(block.bytes.len());
                self.state().arrived(block);
            }
            Accepted::Refused(reason, why) => counters.drop_message(reason, subject, &why),
        }
    }
}

impl State {
    fn arrived(&mut self, block: PulledBlock) {
        let Some(mut waiting) = self.expected.remove(&block.hash) else {
            return self.buffer(block);
        };
        let last = waiting.pop();
        for (_, sender) in waiting {
            let _left_meanwhile = sender.try_send(block.clone());
        }
        if let Some((_, sender)) = last {
            let _left_meanwhile = sender.try_send(block);
        }
    }

    fn buffer(&mut self, block: PulledBlock) {
        self.buffered_bytes += block.bytes.len();
        self.order.push_back(block.hash);
        if let Some(before) = self.buffered.insert(block.hash, block) {
            self.buffered_bytes -= before.bytes.len();
        }
        while self.buffered_bytes > BUFFERED_BYTES_MAX
            || self.order.len() > 2 * self.buffered.len() + 64
        {
            let Some(oldest) = self.order.pop_front() else { break };
            // A hash that is listed again arrived again, and is as new as that.
            if !self.order.contains(&oldest) {
                self.take(&oldest);
            }
        }
    }

    fn take(&mut self, hash: &BlockHash) -> Option<PulledBlock> {
        let block = self.buffered.remove(hash)?;
        self.buffered_bytes -= block.bytes.len();
        Some(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(n: u8, bytes: usize) -> PulledBlock {
        PulledBlock { hash: BlockHash([n; 16]), tokens: 16, bytes: vec![n; bytes] }
    }

    #[test]
    fn unexpected_blocks_are_buffered_up_to_a_limit() {
        let mut state = State::default();
        for n in 0..9 {
            state.buffer(block(n, 10 << 20));
        }
        assert_eq!(state.buffered_bytes, 60 << 20);
        assert_eq!(state.take(&BlockHash([2; 16])), None);
        assert_eq!(state.take(&BlockHash([3; 16])), Some(block(3, 10 << 20)));
        state.buffer(block(4, 1));
        assert_eq!(state.buffered_bytes, (40 << 20) + 1, "a block that comes again counts once");
    }

    #[test]
    fn the_list_of_hashes_stays_short() {
        let mut state = State::default();
        for n in 0..10_000u32 {
            state.buffer(block((n % 200) as u8, 1));
            state.take(&BlockHash([(n % 200) as u8; 16]));
        }
        assert!(state.order.len() <= 66, "{}", state.order.len());
        assert_eq!((state.buffered.len(), state.buffered_bytes), (0, 0));
    }

    #[test]
    fn every_expectation_of_a_block_gets_it() {
        let mut state = State::default();
        let (sender, mut receiver) = mpsc::channel(2);
        state.expected.insert(BlockHash([1; 16]), vec![(1, sender.clone()), (2, sender)]);
        state.arrived(block(1, 5));
        assert_eq!(receiver.try_recv().unwrap(), block(1, 5));
        assert_eq!(receiver.try_recv().unwrap(), block(1, 5));
        assert!(state.buffered.is_empty() && state.expected.is_empty());
    }
}
