//! Reads a stream through an ephemeral pull consumer, and makes a new one when that fails.

use std::pin::Pin;
use std::task::{self, Poll};
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::stream::ConsumerErrorKind;
use async_nats::jetstream::{self, ErrorCode};
use futures::FutureExt as _;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use protocol::Backoff;
use tokio::sync::mpsc;
use tokio::time::Sleep;

use crate::connect::{JETSTREAM_TIMEOUT, Link};
use crate::errands::Errand;
use crate::polled::Polled;

/// A consumer that nobody reads disappears after this time, should its deletion be lost.
const INACTIVE: Duration = Duration::from_secs(10);
const HEARTBEAT: Duration = Duration::from_secs(2);
const EXPIRES: Duration = Duration::from_secs(30);
/// Messages asked for at once; the client asks again at half, so three halves may be underway,
/// which fits a subscription's capacity.
const BATCH_MESSAGES: usize = 256;
/// Between tries to make a consumer.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(20), max: Duration::from_secs(2) };

/// Why a stream is not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("stream {0} does not exist")]
    NoStream(String),
    #[error("read stream {stream}: {why}")]
    Failed { stream: String, why: String },
}

/// Which messages of which stream.
pub(crate) struct Selection {
    pub(crate) stream: String,
    pub(crate) config: pull::Config,
    /// Bytes asked for at once: the flow control.
    pub(crate) batch_bytes: usize,
    /// How often to ask for what there is; `None` has each message sent at once.
    pub(crate) pace: Option<Duration>,
}

/// An open consumer. Dropping it deletes it on the server.
pub(crate) struct Reader {
    messages: Messages,
    /// Messages that were waiting when it was made.
    pending: u64,
    /// The sequence it begins after.
    after: u64,
    consumer: Consumer,
}

enum Messages {
    AtOnce(Box<pull::Stream>),
    InBursts(Box<Polled>),
}

impl Messages {
    fn poll_next(
        &mut self,
        cx: &mut task::Context<'_>,
    ) -> Poll<Result<jetstream::Message, String>> {
        match self {
            Self::InBursts(polled) => polled.poll_next(cx),
            Self::AtOnce(stream) => stream.poll_next_unpin(cx).map(|next| match next {
                Some(next) => next.map_err(|error| error.to_string()),
                None => Err("ended".to_owned()),
            }),
        }
    }
}

struct Consumer {
    jetstream: jetstream::Context,
    stream: String,
    name: String,
    errands: mpsc::Sender<Errand>,
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let _full_is_fine = self.errands.try_send(Errand::DeleteConsumer {
            jetstream: self.jetstream.clone(),
            stream: std::mem::take(&mut self.stream),
            consumer: std::mem::take(&mut self.name),
        });
    }
}

impl Reader {
    pub(crate) async fn open(
        link: Link,
        errands: mpsc::Sender<Errand>,
        selection: Selection,
    ) -> Result<Self, OpenError> {
        let Selection { stream, config, batch_bytes, pace } = selection;
        let up = tokio::time::timeout(JETSTREAM_TIMEOUT, link.wait_until_up()).await;
        if !matches!(up, Ok(Some(()))) {
            return Err(OpenError::Failed { stream, why: "not connected to NATS".to_owned() });
        }
        let inbox = link.client.new_inbox();
        let name = inbox.rsplit('.').next().unwrap_or(&inbox).to_owned();
        let config = pull::Config {
            name: Some(name.clone()),
            ack_policy: AckPolicy::None,
            inactive_threshold: INACTIVE,
            memory_storage: true,
            num_replicas: 1,
            ..config
        };
        // Made before the request, so that a reader given up half-way leaves nothing behind.
        let guard =
            Consumer { jetstream: link.jetstream.clone(), stream: stream.clone(), name, errands };
        let failed = |why: String| OpenError::Failed { stream: stream.clone(), why };
        let created = link.jetstream.create_consumer_on_stream(config, &stream).await;
        let consumer = created.map_err(|error| match error.kind() {
            ConsumerErrorKind::JetStream(error)
                if error.error_code() == ErrorCode::STREAM_NOT_FOUND =>
            {
                OpenError::NoStream(stream.clone())
            }
            _ => failed(error.to_string()),
        })?;
        let info = consumer.cached_info();
        let (pending, after) = (info.num_pending, info.delivered.stream_sequence);
        let messages = match pace {
            Some(pace) => Messages::InBursts(Box::new(Polled::new(consumer, pace, batch_bytes))),
            None => {
                let messages = consumer
                    .stream()
                    .max_messages_per_batch(BATCH_MESSAGES)
                    .max_bytes_per_batch(batch_bytes)
                    .heartbeat(HEARTBEAT)
                    .expires(EXPIRES)
                    .messages();
                let messages = messages.await.map_err(|error| failed(error.to_string()))?;
                Messages::AtOnce(Box::new(messages))
            }
        };
        Ok(Self { messages, pending, after, consumer: guard })
    }
}

/// A future that opens a reader.
pub(crate) type Opening = BoxFuture<'static, Result<Reader, OpenError>>;

/// What following a stream brings.
pub(crate) enum Followed {
    /// A consumer was made: so many messages wait in it, and it begins after this sequence.
    Opened { pending: u64, after: u64 },
    /// A message.
    Message(Box<jetstream::Message>),
    /// The consumer is lost or was not made; another try follows.
    Failed(OpenError),
}

/// Reads for as long as it is polled: opens, reads, and opens again after a failure.
pub(crate) struct Follower {
    link: Link,
    state: State,
    failures: u32,
    /// Resolves when the connection changes. A consumer may not survive that, and finding out by
    /// missed heartbeats would take seconds.
    changed: BoxFuture<'static, ()>,
}

#[derive(Default)]
enum State {
    #[default]
    Closed,
    Opening(Opening),
    Reading(Box<Reader>),
    Waiting(Pin<Box<Sleep>>),
}

impl Follower {
    pub(crate) fn new(link: &Link) -> Self {
        let changed = link.changed().boxed();
        Self { link: link.clone(), state: State::Closed, failures: 0, changed }
    }

    /// `open` is called whenever a new consumer is needed. Safe to abandon at any poll.
    pub(crate) fn poll(
        &mut self,
        cx: &mut task::Context<'_>,
        open: impl Fn() -> Opening,
    ) -> Poll<Followed> {
        if self.changed.poll_unpin(cx).is_ready() {
            self.changed = self.link.changed().boxed();
            let was = std::mem::take(&mut self.state);
            if let State::Reading(reader) = was {
                let stream = reader.consumer.stream.clone();
                let why = "the connection to NATS was lost".to_owned();
                return Poll::Ready(Followed::Failed(OpenError::Failed { stream, why }));
            }
        }
        loop {
            match &mut self.state {
                State::Closed => self.state = State::Opening(open()),
                State::Opening(opening) => match opening.poll_unpin(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(reader)) => {
                        let (pending, after) = (reader.pending, reader.after);
                        self.state = State::Reading(Box::new(reader));
                        return Poll::Ready(Followed::Opened { pending, after });
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(self.failed(error)),
                },
                State::Reading(reader) => match reader.messages.poll_next(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(message)) => {
                        self.failures = 0;
                        return Poll::Ready(Followed::Message(Box::new(message)));
                    }
                    Poll::Ready(Err(why)) => {
                        let stream = reader.consumer.stream.clone();
                        return Poll::Ready(self.failed(OpenError::Failed { stream, why }));
                    }
                },
                State::Waiting(sleep) => match sleep.poll_unpin(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(()) => self.state = State::Closed,
                },
            }
        }
    }

    /// Gives the consumer up; polling again makes a new one at once.
    pub(crate) fn close(&mut self) {
        self.state = State::Closed;
    }

    fn failed(&mut self, error: OpenError) -> Followed {
        let sleep = tokio::time::sleep(BACKOFF.delay(self.failures));
        self.failures += 1;
        self.state = State::Waiting(Box::pin(sleep));
        Followed::Failed(error)
    }
}
