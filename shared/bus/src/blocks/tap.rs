//! Blocks that are put for one worker reach it at once: it listens to what the stream captures.
//!
//! A hint, never the truth: what is lost on this way, because the worker reads slowly or the
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
use crate::serve::{SubscribeError, round_trip, subscribe};

/// Largest sequence whose blocks go this way, all of them together: there is no flow control but
/// what the worker may drop, and the server cuts a reader off at 128 MB. Larger ones are pulled.
pub const TAP_BYTES_MAX: usize = 48 << 20;
/// Blocks that came before anybody expected them.
const HELD_BYTES_MAX: usize = 64 << 20;
/// Blocks of which some frames are missing.
const ARRIVING_MAX: usize = 32;

/// Why blocks cannot be listened to.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The download connection could not be made.
    #[error("listen to blocks: {0}")]
    Connect(#[from] ConnectError),
    /// The subscription was refused.
    #[error("listen to blocks: {0}")]
    Subscribe(#[from] SubscribeError),
}

/// Blocks put for one worker, as they are put. Cheap to clone; listening ends with the last clone.
#[derive(Clone)]
pub struct Tap {
    shared: Arc<Shared>,
    _listening: Arc<JoinSet<()>>,
}

struct Shared {
    blocks: Blocks,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By block, who expects it.
    expected: HashMap<BlockHash, Vec<(u64, mpsc::Sender<PulledBlock>)>>,
    expectations: u64,
    held: HashMap<BlockHash, PulledBlock>,
    /// In the order of arrival; some may have been taken.
    order: VecDeque<BlockHash>,
    held_bytes: usize,
    arriving: BTreeMap<BlockHash, Assembly>,
}

/// Blocks that somebody waits for.
pub struct Expected {
    tap: Tap,
    number: u64,
    names: Vec<BlockHash>,
    arrivals: mpsc::Receiver<PulledBlock>,
}

impl Blocks {
    /// Listens to what is put for `worker`. When it returns, the server knows.
    ///
    /// # Errors
    /// Without a download connection, or when the subscription is refused.
    pub async fn tap(&self, worker: &WorkerId) -> Result<Tap, TapError> {
        let link = self.bus.inner.download().await?;
        let subject = put_to(worker, self.namespace());
        let messages = subscribe(&link.client, &subject, None).await?;
        round_trip(&link.client).await?;
        let shared = Arc::new(Shared { blocks: self.clone(), state: Mutex::default() });
        let mut listening = JoinSet::new();
        listening.spawn(listen(shared.clone(), messages));
        Ok(Tap { shared, _listening: Arc::new(listening) })
    }
}

async fn listen(shared: Arc<Shared>, mut messages: Subscriber) {
    while let Some(message) = messages.next().await {
        shared.take(&message);
    }
}

impl Tap {
    /// From now on the blocks of these names come here, those first that are here already. Somebody
    /// else may expect the same ones.
    pub fn expect(&self, names: Vec<BlockHash>) -> Expected {
        let (sender, arrivals) = mpsc::channel(names.len().max(1));
        let mut state = self.shared.state();
        state.expectations += 1;
        let number = state.expectations;
        for name in &names {
            match state.unhold(name) {
                Some(block) => drop(sender.try_send(block)),
                None => state.expected.entry(*name).or_default().push((number, sender.clone())),
            }
        }
        drop(state);
        Expected { tap: self.clone(), number, names, arrivals }
    }
}

impl Expected {
    /// The next block; never ends by itself, except when all have come. Safe to abandon.
    pub async fn next(&mut self) -> Option<PulledBlock> {
        self.arrivals.recv().await
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        let mut state = self.tap.shared.state();
        for name in &self.names {
            if let Some(waiting) = state.expected.get_mut(name) {
                waiting.retain(|(number, _)| *number != self.number);
                if waiting.is_empty() {
                    state.expected.remove(name);
                }
            }
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a frame; what is not whole and sound is left to be fetched.
    fn take(&self, message: &Message) {
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
                while ARRIVING_MAX < state.arriving.len() {
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
        let Some(mut waiting) = self.expected.remove(&block.hash) else { return self.hold(block) };
        let last = waiting.pop();
        for (_, sender) in waiting {
            let _left_meanwhile = sender.try_send(block.clone());
        }
        if let Some((_, sender)) = last {
            let _left_meanwhile = sender.try_send(block);
        }
    }

    fn hold(&mut self, block: PulledBlock) {
        self.held_bytes += block.bytes.len();
        self.order.push_back(block.hash);
        if let Some(before) = self.held.insert(block.hash, block) {
            self.held_bytes -= before.bytes.len();
        }
        while HELD_BYTES_MAX < self.held_bytes || 2 * self.held.len() + 64 < self.order.len() {
            let Some(oldest) = self.order.pop_front() else { break };
            // Its name may stand there again: then it came again, and is as new as that.
            if !self.order.contains(&oldest) {
                self.unhold(&oldest);
            }
        }
    }

    fn unhold(&mut self, name: &BlockHash) -> Option<PulledBlock> {
        let block = self.held.remove(name)?;
        self.held_bytes -= block.bytes.len();
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
    fn what_nobody_expects_is_held_up_to_a_limit() {
        let mut state = State::default();
        for n in 0..9 {
            state.hold(block(n, 10 << 20));
        }
        assert_eq!(state.held_bytes, 60 << 20);
        assert_eq!(state.unhold(&BlockHash([2; 16])), None);
        assert_eq!(state.unhold(&BlockHash([3; 16])), Some(block(3, 10 << 20)));
        state.hold(block(4, 1));
        assert_eq!(state.held_bytes, (40 << 20) + 1, "a block that comes again counts once");
    }

    #[test]
    fn the_list_of_names_stays_short() {
        let mut state = State::default();
        for n in 0..10_000u32 {
            state.hold(block((n % 200) as u8, 1));
            state.unhold(&BlockHash([(n % 200) as u8; 16]));
        }
        assert!(state.order.len() <= 66, "{}", state.order.len());
        assert_eq!((state.held.len(), state.held_bytes), (0, 0));
    }

    #[test]
    fn everybody_who_expects_a_block_gets_it() {
        let mut state = State::default();
        let (sender, mut receiver) = mpsc::channel(2);
        state.expected.insert(BlockHash([1; 16]), vec![(1, sender.clone()), (2, sender)]);
        state.arrived(block(1, 5));
        assert_eq!(receiver.try_recv().unwrap(), block(1, 5));
        assert_eq!(receiver.try_recv().unwrap(), block(1, 5));
        assert!(state.held.is_empty() && state.expected.is_empty());
    }
}
