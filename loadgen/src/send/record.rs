//! What is kept of each request: its stamps, its reply, and how it failed if it did.

use std::fmt;

use crate::send::identity::RequestIds;
use crate::send::reply::Reply;
use crate::send::slo::{Slo, SloMetric};
use crate::send::stages::Stage;

/// The kinds of failure that are counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureClass {
    /// An answer with this status instead of 200.
    Http(u16),
    /// No connection.
    Connect,
    /// The connection broke in mid-request.
    Broken,
    /// Not finished within the time-out.
    Timeout,
    /// An error event in the stream.
    SseError,
    /// Not what the API says.
    Malformed,
    /// The stream ended before `[DONE]`.
    Truncated,
    /// Not sent, because too many were in flight.
    Dropped,
    /// The prompt could not be made.
    Prompt,
    /// Cut off by the operator.
    Cancelled,
}

impl FailureClass {
    /// Its name, without a number.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http(_) => "http",
            Self::Connect => "connect",
            Self::Broken => "broken connection",
            Self::Timeout => "timeout",
            Self::SseError => "sse error",
            Self::Malformed => "malformed",
            Self::Truncated => "truncated stream",
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

/// A failure and what was said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its kind.
    pub class: FailureClass,
    /// A message for people.
    pub message: String,
}

/// Everything kept of one request that was offered. Times count from the start of the run.
#[derive(Clone, Debug)]
pub struct RequestRecord {
    /// Its place in the plan.
    pub index: usize,
    /// When the schedule wanted it sent.
    pub intended_ns: i64,
    /// When the generator got to it.
    pub issued_ns: i64,
    /// When it was sent, after waiting for a slot if there is a limit.
    pub dispatched_ns: Option<i64>,
    /// When the connection took its first byte.
    pub written_ns: Option<i64>,
    /// When the first byte of the answer was read.
    pub first_byte_ns: Option<i64>,
    /// What came back.
    pub reply: Reply,
    /// When it was over.
    pub finished_ns: i64,
    /// How it failed.
    pub failure: Option<Failure>,
    /// Its `x-request-id`.
    pub request_id: String,
    /// The trace id in its `traceparent`.
    pub trace_id: String,
}

impl RequestRecord {
    /// The record of the request at `index` of a plan that the generator gets to at `issued_ns`, and
    /// that was due then.
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

    /// How late the generator was.
    pub fn lag_ns(&self) -> i64 {
        (self.issued_ns - self.intended_ns).max(0)
    }

    /// From when it was due to when it was sent: the wait for a slot, if there is a limit.
    pub fn queue_wait_ns(&self) -> Option<i64> {
        self.dispatched_ns.map(|at| at - self.issued_ns)
    }

    /// Whether it failed in this way.
    pub fn failed_as(&self, class: FailureClass) -> bool {
        self.failure.as_ref().is_some_and(|failure| failure.class == class)
    }

    /// Whether it was answered completely.
    pub fn succeeded(&self) -> bool {
        self.failure.is_none()
    }

    /// The server's own split into stages; empty if it gave none.
    pub fn stages(&self) -> &[Stage] {
        self.reply.timings.as_ref().map_or(&[], |timings| &timings.stages)
    }

    /// Time to first token since `from_ns`.
    pub fn ttft_ns(&self, from_ns: i64) -> Option<i64> {
        self.reply.first_token_ns().map(|at| at - from_ns)
    }

    /// Time to last token since `from_ns`.
    pub fn e2e_ns(&self, from_ns: i64) -> Option<i64> {
        self.reply.last_token_ns().map(|at| at - from_ns)
    }

    /// Whether the request was answered within the bound, counted from its intended time. A reply of
    /// one token has no time per further token, so it meets any bound on that.
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

    /// (last − first) / (output tokens − 1); none below two tokens.
    pub fn tpot_ns(&self) -> Option<f64> {
        let gaps = self.reply.output_tokens().checked_sub(1).filter(|n| *n > 0)?;
        let span = self.reply.last_token_ns()? - self.reply.first_token_ns()?;
        Some(span as f64 / gaps as f64)
    }
}
