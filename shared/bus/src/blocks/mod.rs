//! The block plane: one stream per model, blocks put once by name and pulled by name.

mod assemble;
mod fetch;
mod index;
mod pull;
mod put;
mod tap;

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
pub use pull::{Pull, PullError, PulledBlock};
pub use put::{NewBlock, PutError, PutOutcome};
pub use tap::{Expected, TAP_BYTES_MAX, Tap, TapError};

use crate::connect::{Bus, JETSTREAM_TIMEOUT};
use crate::errands::Errand;

/// A frame's body and its headers.
const MESSAGE_BYTES_MAX: usize = FRAME_BYTES_MAX + (8 << 10);
/// Puts are told apart by name, not by message ids.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(1);
/// An account's first stream may meet the removal of its last one.
const ENSURE_TRIES: u32 = 4;
const ENSURE_BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(100), max: Duration::from_secs(1) };

/// What a model's stream may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamLimits {
    /// Bytes, after which the server drops the oldest.
    pub bytes_max: u64,
    /// Age, after which the server drops a block.
    pub age_max: Duration,
}

/// Why a model's stream does not exist.
#[derive(Debug, thiserror::Error)]
pub enum EnsureError {
    /// The server refused it.
    #[error("create stream {stream}: {why}")]
    Refused {
        /// Its name.
        stream: String,
        /// What the server said.
        why: String,
    },
    /// JetStream is not there.
    #[error("create stream {stream}: no answer from JetStream: {why}")]
    Unavailable {
        /// Its name.
        stream: String,
        /// What the client library said.
        why: String,
    },
}

/// Why a block is still there.
#[derive(Debug, thiserror::Error)]
#[error("delete block {block}: {why}")]
pub struct DeleteError {
    /// Which.
    pub block: BlockHash,
    /// What the client library said.
    pub why: String,
}

/// Why a stream's state is not known.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It does not exist.
    #[error("stream {0} does not exist")]
    NoStream(String),
    /// The server did not say.
    #[error("state of streams: {0}")]
    Failed(String),
}

/// What a stream holds now.
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
    /// Set when the fingerprint, not only its namespace, is known: needed to report damage.
    fingerprint: Option<ModelFingerprint>,
}

impl Bus {
    /// The blocks of one model.
    pub fn blocks(&self, fingerprint: &ModelFingerprint) -> Blocks {
        let namespace = fingerprint.namespace().into();
        Blocks { bus: self.clone(), namespace, fingerprint: Some(*fingerprint) }
    }

    /// The blocks of every model that has a stream, for the kvstore after a restart.
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
            Err(_) => Err(StateError::Failed("no answer in time".to_owned())),
        }
    }
}

impl Blocks {
    /// The model's namespace, see [`ModelFingerprint::namespace`].
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name of the model's stream.
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

    /// Has the kvstore told that a stored block is damaged.
    fn report_damaged(&self, block: BlockHash) {
        let Some(fingerprint) = self.fingerprint else { return };
        let Ok(message) = protocol::encode(&Discard { fingerprint, block }) else { return };
        let inner = &self.bus.inner;
        let _told_by_the_next_reader_instead = inner.errands.queue().try_send(Errand::Tell {
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

    /// What the model's stream holds now.
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

    /// Removes the frames of a block that were stored up to and including `through`; what was
    /// stored later under the same name stays. A block that is not there is removed already.
    pub async fn delete(&self, block: BlockHash, through: u64) -> Result<(), DeleteError> {
        let failed = |why: String| DeleteError { block, why };
        let subject = Subject::Stored { namespace: &self.namespace, block, frame: None };
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
