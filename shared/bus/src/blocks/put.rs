//! Puts blocks into the store: each hash once, the first put wins.

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
    /// Its hash.
    pub hash: BlockHash,
    /// Tokens in it: 16, or fewer for a tail.
    pub tokens: u32,
    /// The tenant it belongs to, for quotas.
    pub scope: Scope,
    /// The KV of all layers, as the pool lays it out.
    pub bytes: Bytes,
}

/// The outcome of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// The block is stored now.
    Stored,
    /// The block was stored before.
    AlreadyThere,
}

/// A block that could not be stored.
#[derive(Debug, thiserror::Error)]
#[error("put block {hash}: {kind}")]
pub struct PutError {
    /// The block.
    pub hash: BlockHash,
    /// The cause.
    pub kind: PutErrorKind,
}

/// The cause of a [`PutError`].
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum PutErrorKind {
    /// The upload connection could not be made.
    #[error("{0}")]
    Connect(ConnectError),
    /// The model has no stream; the kvstore creates one on `Ensure`.
    #[error("the model has no stream")]
    NoStream,
    /// The acknowledgement did not arrive in time; the block may be stored.
    #[error("not acknowledged in time")]
    Timeout,
    /// The block is longer than a block may be.
    #[error("{bytes} bytes, expected at most {BLOCK_BYTES_MAX}")]
    TooLong { bytes: usize },
    /// The server refused the block: full, overrun, misconfigured.
    #[error("{0}")]
    Refused(PublishError),
}

impl PutError {
    /// Returns what the failure means for a request that needs the block stored.
    pub fn class(&self) -> ErrorClass {
        match self.kind {
            PutErrorKind::TooLong { .. } => ErrorClass::Internal,
            PutErrorKind::Connect(_)
            | PutErrorKind::NoStream
            | PutErrorKind::Timeout
            | PutErrorKind::Refused(_) => ErrorClass::Retry,
        }
    }
}

impl Blocks {
    /// Stores a block, and returns when the server has acknowledged it.
    ///
    /// `to` names the worker that it is meant for. At most 8 MiB, or 256 small frames, of a process
    /// wait for their acknowledgement at once; more puts wait for a permit.
    pub async fn put(
        &self,
        to: Option<&WorkerId>,
        block: NewBlock,
    ) -> Result<PutOutcome, PutError> {
        let hash = block.hash;
        self.try_put(to, block).await.map_err(|kind| PutError { hash, kind })
    }

    async fn try_put(
        &self,
        to: Option<&WorkerId>,
        NewBlock { hash, tokens, scope, bytes }: NewBlock,
    ) -> Result<PutOutcome, PutErrorKind> {
        if bytes.len() > BLOCK_BYTES_MAX {
            return Err(PutErrorKind::TooLong { bytes: bytes.len() });
        }
        let inner = &self.bus.inner;
        let link = inner.upload().await.map_err(PutErrorKind::Connect)?;
        let frames = BlockFrame::split(tokens, scope, &bytes);
        let puts = frames.into_iter().map(|(header, range)| {
            let namespace = &self.namespace;
            let subject = Subject::Put { to, namespace, block: hash, frame: header.frame };
            self.put_frame(link, subject.to_string(), header, bytes.slice(range))
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
        subject: String,
        header: BlockFrame,
        body: Bytes,
    ) -> Result<PutOutcome, PutErrorKind> {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, "0");
        headers.insert(FRAME_HEADER, header.to_string());
        let units = body.len().div_ceil(PUT_UNIT_BYTES).max(1) as u32;
        let put = async {
            let _permit = self.bus.inner.put_window.acquire_many(units.min(PUT_WINDOW_UNITS)).await;
            link.jetstream.publish_with_headers(subject, headers, body).await?.await
        };
        match tokio::time::timeout(JETSTREAM_TIMEOUT, put).await {
            Ok(Ok(_)) => Ok(PutOutcome::Stored),
            Err(_) => Err(PutErrorKind::Timeout),
            Ok(Err(source)) => match source.kind() {
                PublishErrorKind::WrongLastSequence => Ok(PutOutcome::AlreadyThere),
                PublishErrorKind::StreamNotFound => Err(PutErrorKind::NoStream),
                PublishErrorKind::TimedOut => Err(PutErrorKind::Timeout),
                _ => Err(PutErrorKind::Refused(source)),
            },
        }
    }
}
