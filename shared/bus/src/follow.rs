//! Reads a stream through an ephemeral pull consumer, and creates another when that fails.

use std::pin::Pin;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::stream::ConsumerErrorKind;
use async_nats::jetstream::{self, ErrorCode};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use protocol::Backoff;
use tokio::sync::mpsc;
use tokio::time::Sleep;

use crate::bursts::bursts;
use crate::connect::{JETSTREAM_TIMEOUT, Link};
use crate::deferred::Deferred;

/// Life of a consumer that is not read, should its deletion be lost.
const INACTIVE: Duration = Duration::from_secs(10);
const HEARTBEAT: Duration = Duration::from_secs(2);
const EXPIRES: Duration = Duration::from_secs(30);
/// Messages per request; the client requests again at half, so three halves may be on their way,
/// which fits a subscription's capacity.
const BATCH_MESSAGES: usize = 256;
/// Between tries to create a consumer.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(20), max: Duration::from_secs(2) };

/// A stream that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("stream {0} does not exist")]
    NoStream(String),
    #[error("read stream {stream}: {why}")]
    Failed { stream: String, why: String },
}

/// The selected messages of a stream.
pub(crate) struct Selection {
    pub(crate) stream: String,
    pub(crate) config: pull::Config,
    /// Bytes per request: the flow control.
    pub(crate) batch_bytes: usize,
    /// The pace of bursts; `None` has each message sent at once.
    pub(crate) pace: Option<Duration>,
}

/// An open consumer. Dropping it deletes it on the server.
pub(crate) struct Reader {
    messages: BoxStream<'static, Result<jetstream::Message, String>>,
    /// Messages that waited in the consumer when it was created.
    pending: u64,
    /// The sequence after which it begins.
    after: u64,
    consumer: Consumer,
}

struct Consumer {
    jetstream: jetstream::Context,
    stream: String,
    name: String,
    deferred: mpsc::Sender<Deferred>,
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let _full_is_fine = self.deferred.try_send(Deferred::DeleteConsumer {
            jetstream: self.jetstream.clone(),
            stream: std::mem::take(&mut self.stream),
            consumer: std::mem::take(&mut self.name),
        });
    }
}

impl Reader {
    pub(crate) async fn open(
        link: Link,
        deferred: mpsc::Sender<Deferred>,
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
        // Created before the request, so that an abandoned reader leaves no consumer behind.
        let guard =
            Consumer { jetstream: link.jetstream.clone(), stream: stream.clone(), name, deferred };
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
            Some(pace) => bursts(consumer, pace, batch_bytes),
            None => {
                let messages = consumer
                    .stream()
                    .max_messages_per_batch(BATCH_MESSAGES)
                    .max_bytes_per_batch(batch_bytes)
                    .heartbeat(HEARTBEAT)
                    .expires(EXPIRES)
                    .messages();
                let messages = messages.await.map_err(|error| failed(error.to_string()))?;
                messages.map_err(|error| error.to_string()).boxed()
            }
        };
        Ok(Self { messages, pending, after, consumer: guard })
    }
}

/// A future that opens a reader.
pub(crate) type Opening = BoxFuture<'static, Result<Reader, OpenError>>;

/// An event of a followed stream.
pub(crate) enum Followed {
    /// A consumer was created with `pending` messages; it begins after the sequence `after`.
    Opened { pending: u64, after: u64 },
    /// A message.
    Message(Box<jetstream::Message>),
    /// The consumer was lost or could not be created; another try follows.
    Failed(OpenError),
}

/// Reads a stream for as long as it is awaited: opens a consumer, reads it, and opens another after
/// a failure.
pub(crate) struct Follower {
    link: Link,
    state: State,
    failures: u32,
    /// Resolves when the connection changes. A consumer may not survive that, and missed heartbeats
    /// would show it only after seconds.
    changed: BoxFuture<'static, ()>,
}

enum State {
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

    /// Returns the next event; calls `open` whenever it needs a new consumer.
    ///
    /// Safe to abandon: every future that it awaits is part of its state.
    pub(crate) async fn next(&mut self, open: impl Fn() -> Opening) -> Followed {
        loop {
            tokio::select! {
                biased;
                () = &mut self.changed => {
                    self.changed = self.link.changed().boxed();
                    let state = std::mem::replace(&mut self.state, State::Closed);
                    if let State::Reading(reader) = state {
                        let stream = reader.consumer.stream.clone();
                        let why = "the connection to NATS was lost".to_owned();
                        return Followed::Failed(OpenError::Failed { stream, why });
                    }
                }
                step = self.state.advance(&open) => match step {
                    Step::To(state) => self.state = state,
                    Step::Opened(reader) => {
                        let (pending, after) = (reader.pending, reader.after);
                        self.state = State::Reading(reader);
                        return Followed::Opened { pending, after };
                    }
                    Step::Message(message) => {
                        self.failures = 0;
                        return Followed::Message(message);
                    }
                    Step::Failed(error) => {
                        let sleep = tokio::time::sleep(BACKOFF.delay(self.failures));
                        self.failures += 1;
                        self.state = State::Waiting(Box::pin(sleep));
                        return Followed::Failed(error);
                    }
                },
            }
        }
    }

    /// Closes the consumer; the next call of [`Self::next`] opens another.
    pub(crate) fn close(&mut self) {
        self.state = State::Closed;
    }
}

/// The outcome of awaiting a [`State`].
enum Step {
    To(State),
    Opened(Box<Reader>),
    Message(Box<jetstream::Message>),
    Failed(OpenError),
}

impl State {
    async fn advance(&mut self, open: &impl Fn() -> Opening) -> Step {
        match self {
            Self::Closed => Step::To(Self::Opening(open())),
            Self::Opening(opening) => match opening.await {
                Ok(reader) => Step::Opened(Box::new(reader)),
                Err(error) => Step::Failed(error),
            },
            Self::Reading(reader) => {
                let next = reader.messages.next().await;
                match next.unwrap_or_else(|| Err("the consumer ended".to_owned())) {
                    Ok(message) => Step::Message(Box::new(message)),
                    Err(why) => {
                        let stream = reader.consumer.stream.clone();
                        Step::Failed(OpenError::Failed { stream, why })
                    }
                }
            }
            Self::Waiting(sleep) => {
                sleep.await;
                Step::To(Self::Closed)
            }
        }
    }
}
