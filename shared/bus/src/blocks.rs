//! The block plane: one stream per model; blocks are put once and read by hash.

mod assemble;
mod fetch;
mod index;
mod listen;
mod pull;
mod put;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::CreateStreamErrorKind;
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, PurgeErrorKind, StorageType, SubjectTransform,
};
use futures::TryStreamExt as _;
use protocol::frame::FRAME_BYTES_MAX;
use protocol::subject::{StreamNames, parse_stream};
use protocol::{Backoff, BlockHash, Discard, ModelFingerprint, Request, Subject};
use std::sync::Arc;
use std::time::Duration;

pub use fetch::Fetch;
pub use index::{Index, IndexEvent};
pub use listen::{BlockSubscription, Expectation, LISTEN_BYTES_MAX, ListenError};
pub use pull::{Pull, PullError, PulledBlock};
pub use put::{NewBlock, PutError, PutErrorKind, PutOutcome};

use crate::connect::{Bus, JETSTREAM_TIMEOUT};
use crate::deferred::Deferred;

/// A frame's body and its headers.
const MESSAGE_BYTES_MAX: usize = FRAME_BYTES_MAX + (8 << 10);
/// Duplicate puts are detected by hash, not by message id.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(1);
/// Most tries to create a stream: an account's first one may collide with the removal of its last.
const ENSURE_TRIES: u32 = 4;
const ENSURE_BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(100), max: Duration::from_secs(1) };

/// The limits of a model's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamLimits {
    /// Bytes above which the server drops the oldest frames.
    pub bytes_max: u64,
    /// Age at which the server drops a frame.
    pub age_max: Duration,
}

/// A model's stream that could not be created.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum EnsureError {
    /// The server refused it.
    #[error("create stream {stream}: {why}")]
    Refused { stream: String, why: String },
    /// JetStream is unavailable.
    #[error("create stream {stream}: no reply from JetStream: {why}")]
    Unavailable { stream: String, why: String },
}

/// A block that could not be deleted.
#[derive(Debug, thiserror::Error)]
#[error("delete block {hash}: {why}")]
pub struct DeleteError {
    /// The hash of the block.
    pub hash: BlockHash,
    /// The cause.
    pub why: String,
}

/// A stream whose state could not be read.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The stream does not exist.
    #[error("stream {0} does not exist")]
    NoStream(String),
    /// The server did not reply.
    #[error("state of streams: {0}")]
    Failed(String),
}

/// The content of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamState {
    /// Frames.
    pub frames: u64,
    /// Their bytes, headers included.
    pub bytes: u64,
    /// Sequence of the oldest frame; everything before it is gone.
    pub first_sequence: u64,
    /// Sequence of the newest frame.
    pub last_sequence: u64,
}

/// The blocks of one model. Cheap to clone.
#[derive(Clone)]
pub struct Blocks {
    bus: Bus,
    namespace: Arc<str>,
    /// The fingerprint, if more than its namespace is known; reports of damage carry it.
    fingerprint: Option<ModelFingerprint>,
}

impl Bus {
    /// Returns the blocks of one model.
    pub fn blocks(&self, fingerprint: &ModelFingerprint) -> Blocks {
        let namespace = fingerprint.namespace().into();
        Blocks { bus: self.clone(), namespace, fingerprint: Some(*fingerprint) }
    }

    /// Returns the blocks of every model that has a stream, for the kvstore after a restart.
    pub async fn stored_models(&self) -> Result<Vec<Blocks>, StateError> {
        let listing = async {
            let mut names = self.inner.control.jetstream.stream_names();
            let mut found = Vec::new();
            while let Some(stream) = names.try_next().await? {
                if let Some(namespace) = parse_stream(&stream) {
                    let namespace = namespace.into();
                    found.push(Blocks { bus: self.clone(), namespace, fingerprint: None });
                }
            }
            Ok::<_, async_nats::jetstream::context::StreamsError>(found)
        };
        match tokio::time::timeout(JETSTREAM_TIMEOUT, listing).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => Err(StateError::Failed(error.to_string())),
            Err(_) => Err(StateError::Failed("no reply in time".to_owned())),
        }
    }
}

impl Blocks {
    /// Returns the model's namespace, see [`ModelFingerprint::namespace`].
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Returns the name of the model's stream.
    pub fn stream(&self) -> String {
        StreamNames::of_namespace(&self.namespace).stream
    }

    /// Creates the model's stream, or adjusts its limits. For the kvstore.
    pub async fn ensure_stream(&self, limits: StreamLimits) -> Result<(), EnsureError> {
        let stream = self.stream();
        let jetstream = &self.bus.inner.control.jetstream;
        for failures in 0.. {
            let Err(error) = jetstream.create_or_update_stream(self.config(limits)).await else {
                break;
            };
            match error.kind() {
                CreateStreamErrorKind::JetStream(_) if failures + 1 < ENSURE_TRIES => {
                    tracing::debug!(stream, %error, "failed to create the stream, retrying");
                    tokio::time::sleep(ENSURE_BACKOFF.delay(failures)).await;
                }
                CreateStreamErrorKind::JetStream(refused) => {
                    return Err(EnsureError::Refused { stream, why: refused.to_string() });
                }
                _ => return Err(EnsureError::Unavailable { stream, why: error.to_string() }),
            }
        }
        Ok(())
    }

    /// Reports a damaged block to the kvstore.
    fn report_damaged(&self, hash: BlockHash) {
        let Some(fingerprint) = self.fingerprint else { return };
        let Ok(message) = protocol::encode(&Discard { fingerprint, block: hash }) else { return };
        let inner = &self.bus.inner;
        let _the_next_reader_reports_it_otherwise =
            inner.deferred.queue().try_send(Deferred::Report {
                client: inner.control.client.clone(),
                subject: Subject::Store(<Discard as Request>::VERB).to_string(),
                message,
            });
    }

    fn config(&self, limits: StreamLimits) -> Config {
        let names = StreamNames::of_namespace(&self.namespace);
        Config {
            name: names.stream,
            description: Some("KV blocks of one model".to_owned()),
            subjects: vec![names.published.clone()],
            subject_transform: Some(SubjectTransform {
                source: names.published,
                destination: names.kept,
            }),
            storage: StorageType::File,
            num_replicas: 1,
            max_messages_per_subject: 1,
            max_bytes: i64::try_from(limits.bytes_max).unwrap_or(i64::MAX),
            max_age: limits.age_max,
            max_message_size: MESSAGE_BYTES_MAX as i32,
            discard: DiscardPolicy::Old,
            duplicate_window: DUPLICATE_WINDOW,
            allow_direct: true,
            allow_message_ttl: true,
            max_messages: -1,
            max_consumers: -1,
            ..Default::default()
        }
    }

    /// Reads the state of the model's stream.
    pub async fn state(&self) -> Result<StreamState, StateError> {
        let stream = self.stream();
        let got = self.bus.inner.control.jetstream.get_stream(&stream).await;
        match got {
            Ok(got) => {
                let state = &got.cached_info().state;
                Ok(StreamState {
                    frames: state.messages,
                    bytes: state.bytes,
                    first_sequence: state.first_sequence,
                    last_sequence: state.last_sequence,
                })
            }
            Err(error) => Err(match error.kind() {
                async_nats::jetstream::context::GetStreamErrorKind::JetStream(refused)
                    if refused.error_code() == ErrorCode::STREAM_NOT_FOUND =>
                {
                    StateError::NoStream(stream)
                }
                _ => StateError::Failed(error.to_string()),
            }),
        }
    }

    /// Deletes the frames of a block that were stored up to and including `through`; frames stored later
    /// under the same hash stay. Succeeds if the block is not stored.
    pub async fn delete(&self, hash: BlockHash, through: u64) -> Result<(), DeleteError> {
        let failed = |why: String| DeleteError { hash, why };
        let subject = Subject::Stored { namespace: &self.namespace, block: hash, frame: None };
        let jetstream = &self.bus.inner.control.jetstream;
        let stream = jetstream
            .get_stream_no_info(self.stream())
            .await
            .map_err(|error| failed(error.to_string()))?;
        let purge = stream.purge().sequence(through.saturating_add(1)).filter(subject.to_string());
        match purge.await {
            Ok(_) => Ok(()),
            Err(error) => match error.kind() {
                PurgeErrorKind::JetStream(refused)
                    if refused.error_code() == ErrorCode::STREAM_NOT_FOUND =>
                {
                    Ok(())
                }
                _ => Err(failed(error.to_string())),
            },
        }
    }
}
