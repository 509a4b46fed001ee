//! Puts blocks into the store: each name once, whoever comes first.

use async_nats::HeaderMap;
use async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use bytes::Bytes;
use futures::future::try_join_all;
use protocol::frame::{BLOCK_BYTES_MAX, FRAME_HEADER};
use protocol::{BlockFrame, BlockHash, ErrorClass, Scope, Subject, WorkerId};

use super::Blocks;
use crate::connect::{ConnectError, JETSTREAM_TIMEOUT, Link, PUT_UNIT_BYTES, PUT_WINDOW_UNITS};

/// A block on its way into the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewBlock {
    /// Its name.
    pub hash: BlockHash,
    /// Tokens in it: 16, or fewer for a tail.
    pub tokens: u32,
    /// Whose it is, for quotas.
    pub scope: Scope,
    /// The KV of all layers, as the pool lays it out.
    pub bytes: Bytes,
}

/// What a put did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// The block is stored now.
    Stored,
    /// The block was stored before, by whomever.
    AlreadyThere,
}

/// Why a block is not stored.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// The upload connection could not be made.
    #[error("store block {block}: {source}")]
    Connect {
        /// Which.
        block: BlockHash,
        /// Why.
        source: ConnectError,
    },
    /// The model has no stream; the kvstore makes one on `Ensure`.
    #[error("store block {block}: the model has no stream")]
    NoStream {
        /// Which.
        block: BlockHash,
    },
    /// No acknowledgement in time; the block may be stored.
    #[error("store block {block}: not acknowledged in time")]
    Timeout {
        /// Which.
        block: BlockHash,
    },
    /// Longer than a block may be.
    #[error("block {block} has {bytes} bytes, expected at most {BLOCK_BYTES_MAX}")]
    TooLong {
        /// Which.
        block: BlockHash,
        /// Its length.
        bytes: usize,
    },
    /// The server refused it: full, overrun, misconfigured.
    #[error("store block {block}: {source}")]
    Refused {
        /// Which.
        block: BlockHash,
        /// What the server said.
        source: PublishError,
    },
}

impl PutError {
    /// What it means for a request that needs the block stored.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::TooLong { .. } => ErrorClass::Internal,
            Self::Connect { .. } | Self::NoStream { .. } => ErrorClass::Retry,
            Self::Timeout { .. } | Self::Refused { .. } => ErrorClass::Retry,
        }
    }
}

impl Blocks {
    /// Stores a block, and returns when the server has acknowledged it.
    ///
    /// `to` names the worker it is meant for first. At most 8 MiB, or 256 small frames, of a process
    /// wait for their acknowledgement at once; more puts wait for a place.
    pub async fn put(
        &self,
        to: Option<&WorkerId>,
        block: NewBlock,
    ) -> Result<PutOutcome, PutError> {
        let NewBlock { hash: block, tokens, scope, bytes } = block;
        if BLOCK_BYTES_MAX < bytes.len() {
            return Err(PutError::TooLong { block, bytes: bytes.len() });
        }
        let inner = &self.bus.inner;
        let link = inner.upload().await.map_err(|source| PutError::Connect { block, source })?;
        let frames = BlockFrame::split(tokens, scope, &bytes);
        let puts = frames.into_iter().map(|(header, range)| {
            let subject =
                Subject::Put { to, namespace: &self.namespace, block, frame: header.frame };
            self.put_frame(link, block, subject.to_string(), (header, bytes.slice(range)))
        });
        let outcomes = try_join_all(puts).await?;
        if outcomes.contains(&PutOutcome::Stored) {
            inner.counters.stored(bytes.len());
            Ok(PutOutcome::Stored)
        } else {
            inner.counters.already_there();
            Ok(PutOutcome::AlreadyThere)
        }
    }

    async fn put_frame(
        &self,
        link: &Link,
        block: BlockHash,
        subject: String,
        (header, body): (BlockFrame, Bytes),
    ) -> Result<PutOutcome, PutError> {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, "0");
        headers.insert(FRAME_HEADER, header.to_string());
        let units = body.len().div_ceil(PUT_UNIT_BYTES).max(1) as u32;
        let put = async {
            let _place = self.bus.inner.put_window.acquire_many(units.min(PUT_WINDOW_UNITS)).await;
            link.jetstream.publish_with_headers(subject, headers, body).await?.await
        };
        match tokio::time::timeout(JETSTREAM_TIMEOUT, put).await {
            Ok(Ok(_)) => Ok(PutOutcome::Stored),
            Err(_) => Err(PutError::Timeout { block }),
            Ok(Err(source)) => match source.kind() {
                PublishErrorKind::WrongLastSequence => Ok(PutOutcome::AlreadyThere),
                PublishErrorKind::StreamNotFound => Err(PutError::NoStream { block }),
                PublishErrorKind::TimedOut => Err(PutError::Timeout { block }),
                _ => Err(PutError::Refused { block, source }),
            },
        }
    }
}
