//! The frames of a model's stream, without their bodies, for the kvstore's index.

use std::collections::VecDeque;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use protocol::frame::FRAME_HEADER;
use protocol::subject::parse_stored;
use protocol::{BlockFrame, BlockHash};

use super::{Blocks, StateError};
use crate::counters::DropReason;
use crate::follow::{Followed, Follower, OpenError, Opening, Reader, Selection};

const BATCH_BYTES: usize = 1 << 20;
/// Most age of the index: a prompt's blocks are looked up again once its response was read.
const PACE: Duration = Duration::from_millis(50);

/// An event of a model's stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IndexEvent {
    /// A frame was stored.
    Stored {
        /// The hash of its block.
        hash: BlockHash,
        /// The header of the frame.
        frame: BlockFrame,
        /// Its sequence in the stream.
        sequence: u64,
        /// The time, in milliseconds since the Unix epoch.
        stored_at_ms: u64,
    },
    /// Every frame that was stored when the reading began (again) has been reported.
    CaughtUp,
    /// The stream was created again: forget all earlier events.
    Restarted,
    /// The reading is interrupted.
    Interrupted {
        /// The cause.
        why: String,
    },
}

/// A reader of the frames of a model's stream: the stored ones, then each new one.
pub struct Index {
    blocks: Blocks,
    follower: Follower,
    /// The sequence of the last reported frame.
    sequence: u64,
    catching_up: bool,
    interrupted: bool,
    ready: VecDeque<IndexEvent>,
}

impl Blocks {
    /// Follows the stream: first every stored frame, then [`IndexEvent::CaughtUp`], then each new
    /// frame. Survives reconnects.
    pub fn index(&self) -> Index {
        Index {
            blocks: self.clone(),
            follower: Follower::new(&self.bus.inner.control),
            sequence: 0,
            catching_up: false,
            interrupted: false,
            ready: VecDeque::new(),
        }
    }
}

impl Index {
    /// Returns the next event. Safe to abandon.
    pub async fn next(&mut self) -> IndexEvent {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return event;
            }
            match self.follower.next(|| open(&self.blocks, self.sequence)).await {
                Followed::Opened { pending, after } => self.opened(pending, after),
                Followed::Message(message) => self.message(&message),
                Followed::Failed(error) => self.failed(&error),
            }
        }
    }

    fn opened(&mut self, pending: u64, after: u64) {
        self.interrupted = false;
        if after < self.sequence {
            self.sequence = after;
            self.ready.push_back(IndexEvent::Restarted);
        }
        self.catching_up = true;
        self.left(pending);
    }

    fn failed(&mut self, error: &OpenError) {
        if !std::mem::replace(&mut self.interrupted, true) {
            tracing::warn!(%error, "stream index interrupted, retrying");
            self.ready.push_back(IndexEvent::Interrupted { why: error.to_string() });
        }
    }

    fn message(&mut self, message: &jetstream::Message) {
        match read(message, self.blocks.namespace()) {
            Ok((sequence, event)) => {
                self.sequence = sequence;
                self.ready.push_back(event);
            }
            Err((reason, why)) => {
                let counters = &self.blocks.bus.inner.counters;
                counters.drop_message(reason, message.subject.as_str(), &why);
            }
        }
        if let Ok(info) = message.info() {
            self.sequence = info.stream_sequence;
            self.left(info.pending);
        }
    }

    fn left(&mut self, pending: u64) {
        if self.catching_up && pending == 0 {
            self.catching_up = false;
            self.ready.push_back(IndexEvent::CaughtUp);
        }
    }
}

fn read(
    message: &jetstream::Message,
    namespace: &str,
) -> Result<(u64, IndexEvent), (DropReason, String)> {
    let info = message.info().map_err(|error| (DropReason::Subject, error.to_string()))?;
    let (hash, frame) = frame_of(message, namespace)?;
    let sequence = info.stream_sequence;
    let stored_at_ms = (info.published.unix_timestamp_nanos() / 1_000_000).max(0) as u64;
    Ok((sequence, IndexEvent::Stored { hash, frame, sequence, stored_at_ms }))
}

/// Parses the frame of a stream's message: its subject and its header must agree.
pub(super) fn frame_of(
    message: &async_nats::Message,
    namespace: &str,
) -> Result<(BlockHash, BlockFrame), (DropReason, String)> {
    frame_named(message.subject.as_str(), message.headers.as_ref(), namespace)
}

/// The same for a frame whose subject in the stream is `subject`.
pub(super) fn frame_named(
    subject: &str,
    headers: Option<&HeaderMap>,
    namespace: &str,
) -> Result<(BlockHash, BlockFrame), (DropReason, String)> {
    let named = parse_stored(subject);
    match named {
        Some((of, ..)) if of != namespace => {
            Err((DropReason::Subject, format!("namespace {of}, expected {namespace}")))
        }
        named => frame_with_header(named, headers),
    }
}

/// Returns the frame of a subject, with its header.
pub(super) fn frame_with_header(
    named: Option<(&str, BlockHash, u32)>,
    headers: Option<&HeaderMap>,
) -> Result<(BlockHash, BlockFrame), (DropReason, String)> {
    let Some((_, hash, index)) = named else {
        return Err((DropReason::Subject, "not a block's subject".to_owned()));
    };
    let header = headers.and_then(|headers| headers.get(FRAME_HEADER));
    let header = header.ok_or_else(|| (DropReason::Frame, "no frame header".to_owned()))?;
    let frame: BlockFrame = header
        .as_str()
        .parse()
        .map_err(|error: protocol::FrameError| (DropReason::Frame, error.to_string()))?;
    if frame.frame != index {
        let why = format!("frame {} under the subject of frame {index}", frame.frame);
        return Err((DropReason::Frame, why));
    }
    Ok((hash, frame))
}

/// Begins after the last reported frame, or at the beginning if the stream ends before it: then it is
/// another stream of the same name.
fn open(blocks: &Blocks, after: u64) -> Opening {
    let blocks = blocks.clone();
    Box::pin(async move {
        let stream = blocks.stream();
        let state = blocks.state().await.map_err(|error| match error {
            StateError::NoStream(stream) => OpenError::NoStream(stream),
            StateError::Failed(why) => OpenError::Failed { stream: stream.clone(), why },
        })?;
        let deliver_policy = match after {
            1.. if after <= state.last_sequence => {
                DeliverPolicy::ByStartSequence { start_sequence: after + 1 }
            }
            _ => DeliverPolicy::All,
        };
        let config = pull::Config { deliver_policy, headers_only: true, ..Default::default() };
        let selection = Selection { stream, config, batch_bytes: BATCH_BYTES, pace: Some(PACE) };
        let inner = &blocks.bus.inner;
        Reader::open(inner.control.clone(), inner.deferred.queue(), selection).await
    })
}
