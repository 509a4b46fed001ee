//! What workers say about themselves: a KV bucket whose entries last three seconds.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{self, Poll};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::NATS_MESSAGE_TTL;
use async_nats::jetstream;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::kv;
use async_nats::jetstream::stream::StorageType;
use futures::FutureExt as _;
use protocol::subject::PRESENCE_BUCKET;
use protocol::{WireError, WorkerId, WorkerState};
use tokio::time::{Instant, Sleep};

use crate::connect::{Bus, Link};
use crate::counters::DropReason;
use crate::follow::{Followed, Follower, OpenError, Opening, Reader, Selection};
use crate::serve::reason_of;

/// How long an announcement lasts; announce every second.
pub const PRESENCE_TTL: Duration = Duration::from_secs(3);

const STATE_BYTES_MAX: usize = 16 << 10;
const BUCKET_BYTES_MAX: i64 = 64 << 20;
/// How long the server keeps the marker of an expired entry.
const MARKER_TTL: Duration = Duration::from_secs(10);
const BATCH_BYTES: usize = 1 << 20;
const OPERATION: &str = "KV-Operation";

/// Why a worker's state was not announced.
#[derive(Debug, thiserror::Error)]
pub enum AnnounceError {
    /// It cannot be written.
    #[error("state of {worker}: {source}")]
    Encode {
        /// Whose.
        worker: WorkerId,
        /// What is wrong with it.
        source: WireError,
    },
    /// There is no bucket and none could be made.
    #[error("create bucket {PRESENCE_BUCKET}: {why}")]
    NoBucket {
        /// What the client library said.
        why: String,
    },
    /// The server did not take it.
    #[error("announce {worker}: {source}")]
    Failed {
        /// Whose.
        worker: WorkerId,
        /// What the client library said.
        source: jetstream::context::PublishError,
    },
}

impl Bus {
    /// What workers say about themselves.
    pub fn presence(&self) -> Presence {
        Presence { bus: self.clone() }
    }
}

/// The presence bucket, made when missing.
#[derive(Clone)]
pub struct Presence {
    bus: Bus,
}

impl Presence {
    /// Says that this worker lives, and how it is. Lasts [`PRESENCE_TTL`].
    pub async fn announce(&self, state: &WorkerState) -> Result<(), AnnounceError> {
        let worker = &state.worker;
        let value = protocol::encode(state)
            .map_err(|source| AnnounceError::Encode { worker: worker.clone(), source })?;
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_TTL, format!("{}s", PRESENCE_TTL.as_secs()));
        self.put(worker, headers, value).await
    }

    /// Says that this worker is gone, without waiting for the entry to expire.
    pub async fn withdraw(&self, worker: &WorkerId) -> Result<(), AnnounceError> {
        let mut headers = HeaderMap::new();
        headers.insert(OPERATION, "DEL");
        headers.insert(NATS_MESSAGE_TTL, format!("{}s", MARKER_TTL.as_secs()));
        self.put(worker, headers, Vec::new()).await
    }

    /// Who is there now, and every change; survives reconnects and restarts of the server.
    pub fn watch(&self) -> Watch {
        Watch {
            bus: self.bus.clone(),
            follower: Follower::new(&self.bus.inner.control),
            catching_up: false,
            interrupted: false,
            known: BTreeMap::new(),
            timer: None,
            ready: VecDeque::new(),
        }
    }

    async fn put(
        &self,
        worker: &WorkerId,
        headers: HeaderMap,
        value: Vec<u8>,
    ) -> Result<(), AnnounceError> {
        let link = &self.bus.inner.control;
        let subject = key_subject(worker);
        let put = async || {
            let sent = link.jetstream.publish_with_headers(
                subject.clone(),
                headers.clone(),
                value.clone().into(),
            );
            sent.await?.await
        };
        let mut stored = put().await;
        if stored.as_ref().is_err_and(|e| e.kind() == PublishErrorKind::StreamNotFound) {
            ensure_bucket(link).await.map_err(|why| AnnounceError::NoBucket { why })?;
            stored = put().await;
        }
        match stored {
            Ok(_) => Ok(()),
            Err(source) => Err(AnnounceError::Failed { worker: worker.clone(), source }),
        }
    }
}

fn key_subject(worker: &WorkerId) -> String {
    format!("$KV.{PRESENCE_BUCKET}.{worker}")
}

/// Makes the bucket; one that is already there stays as it is.
async fn ensure_bucket(link: &Link) -> Result<(), String> {
    let config = kv::Config {
        bucket: PRESENCE_BUCKET.to_owned(),
        description: "tandem workers, refreshed every second".to_owned(),
        max_value_size: STATE_BYTES_MAX as i32,
        history: 1,
        max_bytes: BUCKET_BYTES_MAX,
        storage: StorageType::Memory,
        num_replicas: 1,
        limit_markers: Some(MARKER_TTL),
        ..Default::default()
    };
    match link.jetstream.create_key_value(config).await {
        Ok(_) => Ok(()),
        Err(created) => match link.jetstream.get_key_value(PRESENCE_BUCKET).await {
            Ok(_) => Ok(()),
            Err(_) => Err(created.to_string()),
        },
    }
}

/// What a watcher sees.
#[derive(Clone, Debug, PartialEq)]
pub enum PresenceEvent {
    /// This worker is there, in this state.
    Up(Box<WorkerState>),
    /// This worker withdrew, or was silent for longer than [`PRESENCE_TTL`].
    Gone(WorkerId),
    /// Everything that was there when watching began (again) has been told.
    Synced,
    /// Nothing is seen for now: what was told is growing old. `Synced` says when this ends.
    Interrupted {
        /// What went wrong.
        why: String,
    },
}

/// Watches the workers come and go.
pub struct Watch {
    bus: Bus,
    follower: Follower,
    /// True until the entries that waited when the consumer was made are told.
    catching_up: bool,
    interrupted: bool,
    /// Workers told to be up. After an interruption each has until the given time to be seen
    /// again: a restarted server begins with an empty bucket.
    known: BTreeMap<WorkerId, Option<Instant>>,
    timer: Option<(Instant, Pin<Box<Sleep>>)>,
    ready: VecDeque<PresenceEvent>,
}

impl Watch {
    /// The next event. Safe to abandon.
    pub async fn next(&mut self) -> PresenceEvent {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut task::Context<'_>) -> Poll<PresenceEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Poll::Ready(event);
            }
            if let Poll::Ready(worker) = self.poll_unseen(cx) {
                self.known.remove(&worker);
                return Poll::Ready(PresenceEvent::Gone(worker));
            }
            let bus = &self.bus;
            match self.follower.poll(cx, || open(bus)) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Followed::Opened { pending, .. }) => self.opened(pending),
                Poll::Ready(Followed::Message(message)) => self.message(&message),
                Poll::Ready(Followed::Failed(error)) => self.failed(&error),
            }
        }
    }

    fn opened(&mut self, pending: u64) {
        let until = Instant::now() + PRESENCE_TTL;
        for unseen in self.known.values_mut() {
            *unseen = Some(until);
        }
        self.interrupted = false;
        self.catching_up = true;
        self.left(pending);
    }

    fn failed(&mut self, error: &OpenError) {
        if !std::mem::replace(&mut self.interrupted, true) {
            tracing::warn!(%error, "presence of workers is not seen");
            self.ready.push_back(PresenceEvent::Interrupted { why: error.to_string() });
        }
    }

    fn message(&mut self, message: &jetstream::Message) {
        let read = read(message);
        match read {
            Ok(Entry::Up(state)) => {
                self.known.insert(state.worker.clone(), None);
                self.ready.push_back(PresenceEvent::Up(state));
            }
            Ok(Entry::Gone(worker)) => {
                if self.known.remove(&worker).is_some() {
                    self.ready.push_back(PresenceEvent::Gone(worker));
                }
            }
            Err((reason, why)) => {
                self.bus.inner.counters.drop_message(reason, message.subject.as_str(), &why);
            }
        }
        self.left(message.info().map_or(0, |info| info.pending));
    }

    /// With no entries left the watcher is in step.
    fn left(&mut self, pending: u64) {
        if self.catching_up && pending == 0 {
            self.catching_up = false;
            self.ready.push_back(PresenceEvent::Synced);
        }
    }

    /// Ready with a worker that was not seen again in time after an interruption.
    fn poll_unseen(&mut self, cx: &mut task::Context<'_>) -> Poll<WorkerId> {
        if self.interrupted {
            return Poll::Pending;
        }
        let first = self.known.iter().filter_map(|(worker, until)| Some(((*until)?, worker))).min();
        let Some((until, worker)) = first else {
            self.timer = None;
            return Poll::Pending;
        };
        let set = self.timer.take().filter(|(set, _)| *set == until);
        let (_, sleep) = self
            .timer
            .insert(set.unwrap_or_else(|| (until, Box::pin(tokio::time::sleep_until(until)))));
        sleep.poll_unpin(cx).map(|()| worker.clone())
    }
}

enum Entry {
    Up(Box<WorkerState>),
    Gone(WorkerId),
}

/// Reads an entry; an empty one, of whatever kind, means that the worker is gone.
fn read(message: &jetstream::Message) -> Result<Entry, (DropReason, String)> {
    let key = message.subject.as_str().rsplit('.').next().unwrap_or_default();
    let worker: WorkerId =
        key.parse().map_err(|error: protocol::IdError| (DropReason::Subject, error.to_string()))?;
    if message.payload.is_empty() {
        return Ok(Entry::Gone(worker));
    }
    let state: WorkerState = protocol::decode(&message.payload, STATE_BYTES_MAX)
        .map_err(|error| (reason_of(&error), error.to_string()))?;
    if state.worker != worker {
        return Err((DropReason::Subject, format!("state of {} under another name", state.worker)));
    }
    Ok(Entry::Up(Box::new(state)))
}

fn open(bus: &Bus) -> Opening {
    let link = bus.inner.control.clone();
    let errands = bus.inner.errands.queue();
    Box::pin(async move {
        let stream = format!("KV_{PRESENCE_BUCKET}");
        let selection = |stream| Selection {
            stream,
            config: pull::Config {
                deliver_policy: DeliverPolicy::LastPerSubject,
                filter_subject: format!("$KV.{PRESENCE_BUCKET}.>"),
                ..Default::default()
            },
            batch_bytes: BATCH_BYTES,
            pace: None,
        };
        match Reader::open(link.clone(), errands.clone(), selection(stream.clone())).await {
            Err(OpenError::NoStream(_)) => {
                ensure_bucket(&link)
                    .await
                    .map_err(|why| OpenError::Failed { stream: stream.clone(), why })?;
                Reader::open(link, errands, selection(stream)).await
            }
            opened => opened,
        }
    })
}
