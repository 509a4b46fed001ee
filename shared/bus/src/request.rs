//! Requests to one worker or to the kvstore, and the wait for their answers.

use std::time::Duration;

use async_nats::{Request as NatsRequest, RequestErrorKind};
use protocol::subject::{Request, StoreRequest, WorkerRequest};
use protocol::{ErrorClass, Subject, WireError, WorkerId};

use crate::connect::Bus;
use crate::context::Context;

/// Longest answer accepted: the largest payload of the servers we configure.
const REPLY_BYTES_MAX: usize = 8 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Nobody serves this subject: the worker is gone.
    #[error("nobody answers {subject}")]
    NoResponders {
        /// Where the request went.
        subject: String,
    },
    /// No answer in time; the request may have been handled.
    #[error("no answer from {subject} within {timeout_ms} ms")]
    Timeout {
        /// Where the request went.
        subject: String,
        /// How long the wait was.
        timeout_ms: u64,
    },
    /// No connection to NATS; the request was not sent.
    #[error("not connected to NATS, nothing sent to {subject}")]
    Disconnected {
        /// Where the request should have gone.
        subject: String,
    },
    /// The request is longer than its kind may be, or than the server takes.
    #[error("request of {bytes} bytes to {subject} is too long")]
    TooLong {
        /// Where the request should have gone.
        subject: String,
        /// Its length.
        bytes: usize,
    },
    /// The request cannot be written.
    #[error("request to {subject}: {source}")]
    Encode {
        /// Where the request should have gone.
        subject: String,
        /// What is wrong with it.
        source: WireError,
    },
    /// The answer cannot be read.
    #[error("answer from {subject}: {source}")]
    Malformed {
        /// Where the request went.
        subject: String,
        /// What is wrong with the answer.
        source: WireError,
    },
    /// The connection broke while waiting.
    #[error("request to {subject}: {source}")]
    Failed {
        /// Where the request went.
        subject: String,
        /// What the client library said.
        source: async_nats::RequestError,
    },
}

impl RequestError {
    /// What it means for the request that needed the answer.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NoResponders { .. } | Self::Timeout { .. } | Self::Disconnected { .. } => {
                ErrorClass::Retry
            }
            Self::Failed { .. } => ErrorClass::Retry,
            Self::TooLong { .. } => ErrorClass::Invalid,
            Self::Encode { .. } | Self::Malformed { .. } => ErrorClass::Internal,
        }
    }
}

impl Bus {
    /// Asks one worker. A dead worker is an immediate [`RequestError::NoResponders`].
    pub async fn ask_worker<M: WorkerRequest>(
        &self,
        worker: &WorkerId,
        message: &M,
        context: &Context,
        timeout: Duration,
    ) -> Result<M::Reply, RequestError> {
        self.ask(Subject::Worker(worker, M::VERB), message, context, timeout).await
    }

    /// Asks the kvstore.
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
        let payload = match protocol::encode(message) {
            Ok(payload) => payload,
            Err(source) => return Err(RequestError::Encode { subject, source }),
        };
        let bytes = payload.len();
        if M::BYTES_MAX < bytes {
            return Err(RequestError::TooLong { subject, bytes });
        }
        let link = &self.inner.control;
        if !link.connected() {
            return Err(RequestError::Disconnected { subject });
        }
        let request = NatsRequest::new()
            .payload(payload.into())
            .headers(context.to_headers())
            .timeout(Some(timeout));
        let timed_out =
            |subject| RequestError::Timeout { subject, timeout_ms: timeout.as_millis() as u64 };
        // The outer limit also covers a full command queue, which the client's does not.
        let asked = link.client.send_request(subject.clone(), request);
        let reply = match tokio::time::timeout(timeout, asked).await {
            Ok(Ok(reply)) => reply,
            Err(_) => return Err(timed_out(subject)),
            Ok(Err(error)) => {
                return Err(match error.kind() {
                    RequestErrorKind::NoResponders => RequestError::NoResponders { subject },
                    RequestErrorKind::TimedOut => timed_out(subject),
                    RequestErrorKind::MaxPayloadExceeded => {
                        RequestError::TooLong { subject, bytes }
                    }
                    _ => RequestError::Failed { subject, source: error },
                });
            }
        };
        protocol::decode(&reply.payload, REPLY_BYTES_MAX)
            .map_err(|source| RequestError::Malformed { subject, source })
    }
}
