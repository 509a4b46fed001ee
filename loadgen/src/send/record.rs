//! The record of a request: time stamps, reply and failure.

use std::fmt;

use crate::send::identity::RequestIds;
use crate::send::reply::Reply;
use crate::send::slo::{Slo, SloMetric};
use crate::send::stages::Stage;

/// Class of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureClass {
    /// A response with this status instead of 200.
    Http(u16),
    /// No connection.
    Connect,
    /// A connection that broke during the request.
    Broken,
    /// No end within the timeout.
    Timeout,
    /// An error event in the stream.
    SseError,
    /// A response that violates the API.
    Malformed,
    /// A stream without `[DONE]`.
    Truncated,
    /// An answer that the server gave up: finish_reason `abort`, `error` and the like.
    GivenUp,
    /// An answer without a token.
    Empty,
    /// Not sent, because too many were in flight.
    Dropped,
    /// A prompt that could not be made.
    Prompt,
    /// Cancelled by the operator.
    Cancelled,
}

impl FailureClass {
    /// Returns the name of the class, without a number.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http(_) => "http",
            Self::Connect => "connect",
            Self::Broken => "broken connection",
            Self::Timeout => "timeout",
            Self::SseError => "sse error",
            Self::Malformed => "malformed",
            Self::Truncated => "truncated stream",
            Self::GivenUp => "given up by the server",
            Self::Empty => "empty answer",
            Self::Dropped => "dropped",
            Self::Prompt => "prompt",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for FailureClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(status) => write!(f, "http {status}"),
            other => f.write_str(other.name()),
        }
    }
}

/// A failure with a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Class of the failure.
    pub class: FailureClass,
    /// Message for people.
    pub message: String,
}

/// Record of one sent request. Times count from the start of the run.
#[derive(Clone, Debug)]
pub struct RequestRecord {
    /// Index in the plan.
    pub index: usize,
    /// Intended time of the schedule.
    pub intended_ns: i64,
    /// Time at which the generator handled the request.
    pub issued_ns: i64,
    /// Time at which the request was sent, after the wait for a slot.
    pub dispatched_ns: Option<i64>,
    /// Time at which the connection accepted the first byte.
    pub written_ns: Option<i64>,
    /// Time at which the first byte of the response was read.
    pub first_byte_ns: Option<i64>,
    /// Content of the response.
    pub reply: Reply,
    /// Time at which the request was over.
    pub finished_ns: i64,
    /// Failure, if the request failed.
    pub failure: Option<Failure>,
    /// Value of `x-request-id`.
    pub request_id: String,
    /// Trace id in `traceparent`.
    pub trace_id: String,
}

impl RequestRecord {
    /// Creates the record of the request at `index` of a plan, with the intended time `issued_ns`,
    /// at which the generator handles it.
    pub fn new(index: usize, issued_ns: i64, ids: RequestIds) -> Self {
        Self {
            index,
            intended_ns: issued_ns,
            issued_ns,
            dispatched_ns: None,
            written_ns: None,
            first_byte_ns: None,
            reply: Reply::default(),
            finished_ns: issued_ns,
            failure: None,
            request_id: ids.request_id,
            trace_id: ids.trace_id,
        }
    }

    /// Returns the lag of the generator.
    pub fn lag_ns(&self) -> i64 {
        (self.issued_ns - self.intended_ns).max(0)
    }

    /// Returns the wait for a slot among the requests in flight.
    pub fn queue_wait_ns(&self) -> Option<i64> {
        self.dispatched_ns.map(|at| at - self.issued_ns)
    }

    /// Returns whether the request failed with this class.
    pub fn failed_as(&self, class: FailureClass) -> bool {
        self.failure.as_ref().is_some_and(|failure| failure.class == class)
    }

    /// Returns whether the response was complete.
    pub fn succeeded(&self) -> bool {
        self.failure.is_none()
    }

    /// Returns the stages that the server reported; empty if it reported none.
    pub fn stages(&self) -> &[Stage] {
        self.reply.timings.as_ref().map_or(&[], |timings| &timings.stages)
    }

    /// Returns the time to first token since `from_ns`.
    pub fn ttft_ns(&self, from_ns: i64) -> Option<i64> {
        self.reply.first_token_ns().map(|at| at - from_ns)
    }

    /// Returns the time to last token since `from_ns`.
    pub fn e2e_ns(&self, from_ns: i64) -> Option<i64> {
        self.reply.last_token_ns().map(|at| at - from_ns)
    }

    /// Returns whether the request met the SLO, counted from its intended time. A reply of one
    /// token has no TPOT, so it meets any bound on that.
    pub fn meets(&self, slo: &Slo) -> bool {
        if !self.succeeded() {
            return false;
        }
        let bound = slo.bound.0;
        match slo.metric {
            SloMetric::Ttft => self.ttft_ns(self.intended_ns).is_some_and(|ns| ns <= bound),
            SloMetric::E2e => self.e2e_ns(self.intended_ns).is_some_and(|ns| ns <= bound),
            SloMetric::Tpot => self.tpot_ns().is_none_or(|ns| ns <= bound as f64),
        }
    }

    /// Returns (last − first) / (output tokens − 1); `None` below two tokens.
    pub fn tpot_ns(&self) -> Option<f64> {
        let gaps = self.reply.output_tokens().checked_sub(1).filter(|n| *n > 0)?;
        let span = self.reply.last_token_ns()? - self.reply.first_token_ns()?;
        Some(span as f64 / gaps as f64)
    }
}
