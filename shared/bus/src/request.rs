//! Requests to one worker or to the kvstore, and the wait for their answers.

use std::time::Duration;

use async_nats::{Request as NatsRequest, RequestErrorKind as NatsErrorKind};
use protocol::subject::{Request, StoreRequest, WorkerRequest};
use protocol::{ErrorClass, Subject, WireError, WorkerId};

use crate::connect::Bus;
use crate::context::Context;

/// Longest answer accepted: the largest payload of the servers we configure.
const REPLY_BYTES_MAX: usize = 8 << 20;

/// A request that brought no usable reply.
#[derive(Debug, thiserror::Error)]
#[error("request to {subject}: {kind}")]
pub struct RequestError {
    /// The subject of the request.
    pub subject: String,
    /// The cause.
    pub kind: RequestErrorKind,
}

/// The cause of a [`RequestError`].
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum RequestErrorKind {
    /// No process serves the subject: the worker is gone.
    #[error("no responders")]
    NoResponders,
    /// The reply did not arrive in time; the request may have been handled.
    #[error("no reply within {timeout_ms} ms")]
    Timeout { timeout_ms: u64 },
    /// There is no connection to NATS; the request was not sent.
    #[error("not connected to NATS, nothing was sent")]
    Disconnected,
    /// The request is longer than its kind may be, or than the server accepts.
    #[error("{bytes} bytes are too long")]
    TooLong { bytes: usize },
    /// The request cannot be encoded.
    #[error("cannot encode: {0}")]
    Encode(WireError),
    /// The reply cannot be decoded.
    #[error("malformed reply: {0}")]
    Malformed(WireError),
    /// The connection broke while waiting.
    #[error("{0}")]
    Failed(async_nats::RequestError),
}

impl RequestError {
    /// Returns what the failure means for the request that needed the reply.
    pub fn class(&self) -> ErrorClass {
        match self.kind {
            RequestErrorKind::NoResponders
            | RequestErrorKind::Timeout { .. }
            | RequestErrorKind::Disconnected
            | RequestErrorKind::Failed(_) => ErrorClass::Retry,
            RequestErrorKind::TooLong { .. } => ErrorClass::Invalid,
            RequestErrorKind::Encode(_) | RequestErrorKind::Malformed(_) => ErrorClass::Internal,
        }
    }

    /// Returns true if no process serves the subject.
    pub fn is_no_responders(&self) -> bool {
        matches!(self.kind, RequestErrorKind::NoResponders)
    }
}

impl Bus {
    /// Sends a request to one worker. A dead worker is [`RequestErrorKind::NoResponders`] at once.
    pub async fn ask_worker<M: WorkerRequest>(
        &self,
        worker: &WorkerId,
        message: &M,
        context: &Context,
        timeout: Duration,
    ) -> Result<M::Reply, RequestError> {
        self.ask(Subject::Worker(worker, M::VERB), message, context, timeout).await
    }

    /// Sends a request to the kvstore.
    pub async fn ask_store<M: StoreRequest>(
        &self,
        message: &M,
        context: &Context,
        timeout: Duration,
    ) -> Result<M::Reply, RequestError> {
        self.ask(Subject::Store(M::VERB), message, context, timeout).await
    }

    async fn ask<M: Request>(
        &self,
        subject: Subject<'_>,
        message: &M,
        context: &Context,
        timeout: Duration,
    ) -> Result<M::Reply, RequestError> {
        let subject = subject.to_string();
        match self.try_ask(&subject, message, context, timeout).await {
            Ok(reply) => Ok(reply),
            Err(kind) => Err(RequestError { subject, kind }),
        }
    }

    async fn try_ask<M: Request>(
        &self,
        subject: &str,
        message: &M,
        context: &Context,
        timeout: Duration,
    ) -> Result<M::Reply, RequestErrorKind> {
        let payload = protocol::encode(message).map_err(RequestErrorKind::Encode)?;
        let bytes = payload.len();
        if bytes > M::BYTES_MAX {
            return Err(RequestErrorKind::TooLong { bytes });
        }
        let link = &self.inner.control;
        if !link.connected() {
            return Err(RequestErrorKind::Disconnected);
        }
        let request = NatsRequest::new()
            .payload(payload.into())
            .headers(context.to_headers())
            .timeout(Some(timeout));
        let timeout_ms = timeout.as_millis() as u64;
        // The outer limit also covers a full command queue, which the client's does not.
        let asked = link.client.send_request(subject.to_owned(), request);
        let reply = match tokio::time::timeout(timeout, asked).await {
            Ok(Ok(reply)) => reply,
            Err(_) => return Err(RequestErrorKind::Timeout { timeout_ms }),
            Ok(Err(error)) => {
                return Err(match error.kind() {
                    NatsErrorKind::NoResponders => RequestErrorKind::NoResponders,
                    NatsErrorKind::TimedOut => RequestErrorKind::Timeout { timeout_ms },
                    NatsErrorKind::MaxPayloadExceeded => RequestErrorKind::TooLong { bytes },
                    _ => RequestErrorKind::Failed(error),
                });
            }
        };
        protocol::decode(&reply.payload, REPLY_BYTES_MAX).map_err(RequestErrorKind::Malformed)
    }
}
