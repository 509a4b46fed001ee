//! Presence of workers: a KV bucket whose entries last three seconds.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::NATS_MESSAGE_TTL;
use async_nats::jetstream;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::kv;
use async_nats::jetstream::stream::StorageType;
use protocol::subject::PRESENCE_BUCKET;
use protocol::{WireError, WorkerId, WorkerState};
use tokio::time::{Instant, sleep_until};

use crate::connect::{Bus, Link};
use crate::counters::DropReason;
use crate::follow::{Followed, Follower, OpenError, Opening, Reader, Selection};

/// Life of an announcement; announce every second.
pub const PRESENCE_TTL: Duration = Duration::from_secs(3);

const STATE_BYTES_MAX: usize = 16 << 10;
const BUCKET_BYTES_MAX: i64 = 64 << 20;
/// Life of the marker of an expired entry on the server.
const MARKER_TTL: Duration = Duration::from_secs(10);
const BATCH_BYTES: usize = 1 << 20;
const OPERATION: &str = "KV-Operation";

/// An announcement that failed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum AnnounceError {
    /// The state cannot be encoded.
    #[error("state of {worker}: {source}")]
    Encode { worker: WorkerId, source: WireError },
    /// There is no bucket and none could be created.
    #[error("create bucket {PRESENCE_BUCKET}: {why}")]
    NoBucket { why: String },
    /// The server did not accept the state.
    #[error("announce {worker}: {source}")]
    Failed { worker: WorkerId, source: jetstream::context::PublishError },
}

impl Bus {
    /// Returns the presence bucket.
    pub fn presence(&self) -> Presence {
        Presence { bus: self.clone() }
    }
}

/// The presence bucket, created when missing.
#[derive(Clone)]
pub struct Presence {
    bus: Bus,
}

impl Presence {
    /// Announces the state of a worker for [`PRESENCE_TTL`].
    pub async fn announce(&self, state: &WorkerState) -> Result<(), AnnounceError> {
        let worker = &state.worker;
        let value = protocol::encode(state)
            .map_err(|source| AnnounceError::Encode { worker: worker.clone(), source })?;
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_TTL, format!("{}s", PRESENCE_TTL.as_secs()));
        self.put(worker, headers, value).await
    }

    /// Withdraws a worker at once, before its entry expires.
    pub async fn withdraw(&self, worker: &WorkerId) -> Result<(), AnnounceError> {
        let mut headers = HeaderMap::new();
        headers.insert(OPERATION, "DEL");
        headers.insert(NATS_MESSAGE_TTL, format!("{}s", MARKER_TTL.as_secs()));
        self.put(worker, headers, Vec::new()).await
    }

    /// Watches the present workers and every change; survives reconnects and restarts of the server.
    pub fn watch(&self) -> Watch {
        Watch {
            bus: self.bus.clone(),
            follower: Follower::new(&self.bus.inner.control),
            catching_up: false,
            interrupted: false,
            known: BTreeMap::new(),
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

/// Creates the bucket; an existing one stays as it is.
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

/// A change of presence.
#[derive(Clone, Debug, PartialEq)]
pub enum PresenceEvent {
    /// A worker announced its state.
    Up(Box<WorkerState>),
    /// A worker withdrew, or announced nothing for longer than [`PRESENCE_TTL`].
    Gone(WorkerId),
    /// Every entry that existed when the watch began (again) has been reported.
    Synced,
    /// The watch is interrupted, and the reported states become stale. `Synced` ends this.
    Interrupted {
        /// The cause.
        why: String,
    },
}

/// A watch on the presence of workers.
pub struct Watch {
    bus: Bus,
    follower: Follower,
    /// True until the entries that waited when the consumer was created are reported.
    catching_up: bool,
    interrupted: bool,
    /// Workers reported as up. After an interruption each has until the given time to be announced
    /// again, because a restarted server begins with an empty bucket.
    known: BTreeMap<WorkerId, Option<Instant>>,
    ready: VecDeque<PresenceEvent>,
}

impl Watch {
    /// Returns the next event. Safe to abandon.
    pub async fn next(&mut self) -> PresenceEvent {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return event;
            }
            let unseen = self.first_unseen();
            let until = unseen.as_ref().map(|(until, _)| *until);
            let followed = tokio::select! {
                biased;
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => None,
                followed = self.follower.next(|| open(&self.bus)) => Some(followed),
            };
            match (followed, unseen) {
                (Some(Followed::Opened { pending, .. }), _) => self.opened(pending),
                (Some(Followed::Message(message)), _) => self.message(&message),
                (Some(Followed::Failed(error)), _) => self.failed(&error),
                (None, Some((_, worker))) => {
                    self.known.remove(&worker);
                    return PresenceEvent::Gone(worker);
                }
                (None, None) => {}
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
            tracing::warn!(%error, "presence watch interrupted, retrying");
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

    /// Reports `Synced` once no entries are left.
    fn left(&mut self, pending: u64) {
        if self.catching_up && pending == 0 {
            self.catching_up = false;
            self.ready.push_back(PresenceEvent::Synced);
        }
    }

    /// Returns the worker whose time to be seen again after an interruption ends first.
    fn first_unseen(&self) -> Option<(Instant, WorkerId)> {
        if self.interrupted {
            return None;
        }
        let unseen = self.known.iter().filter_map(|(worker, until)| Some(((*until)?, worker)));
        unseen.min().map(|(until, worker)| (until, worker.clone()))
    }
}

enum Entry {
    Up(Box<WorkerState>),
    Gone(WorkerId),
}

/// Decodes an entry; an empty one, of any kind, means that the worker is gone.
fn read(message: &jetstream::Message) -> Result<Entry, (DropReason, String)> {
    let key = message.subject.as_str().rsplit('.').next().unwrap_or_default();
    let worker: WorkerId =
        key.parse().map_err(|error: protocol::IdError| (DropReason::Subject, error.to_string()))?;
    if message.payload.is_empty() {
        return Ok(Entry::Gone(worker));
    }
    let state: WorkerState = protocol::decode(&message.payload, STATE_BYTES_MAX)
        .map_err(|error| (DropReason::of(&error), error.to_string()))?;
    if state.worker != worker {
        return Err((DropReason::Subject, format!("state of {} under another name", state.worker)));
    }
    Ok(Entry::Up(Box::new(state)))
}

fn open(bus: &Bus) -> Opening {
    let link = bus.inner.control.clone();
    let deferred = bus.inner.deferred.queue();
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
        match Reader::open(link.clone(), deferred.clone(), selection(stream.clone())).await {
            Err(OpenError::NoStream(_)) => {
                ensure_bucket(&link)
                    .await
                    .map_err(|why| OpenError::Failed { stream: stream.clone(), why })?;
                Reader::open(link, deferred, selection(stream)).await
            }
            opened => opened,
        }
    })
}
