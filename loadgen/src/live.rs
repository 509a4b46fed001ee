//! Counters that requests update while the run goes on, for the progress display.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use crate::record::{FailureClass, RequestRecord};

/// What has happened so far.
#[derive(Debug, Default)]
pub struct Live {
    issued: AtomicU64,
    sent: AtomicU64,
    finished: AtomicU64,
    failed: AtomicU64,
    tokens: AtomicU64,
    worst_lag_ns: AtomicI64,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Requests the generator got to.
    pub issued: u64,
    /// Requests sent.
    pub sent: u64,
    /// Requests that are over, failures included.
    pub finished: u64,
    /// Requests that failed, those that the operator cut off left out.
    pub failed: u64,
    /// Chunks of text received.
    pub tokens: u64,
    /// The worst lag since the last snapshot.
    pub worst_lag_ns: i64,
}

impl Live {
    /// The generator got to a request, `lag_ns` late.
    pub fn issued(&self, lag_ns: i64) {
        self.issued.fetch_add(1, Relaxed);
        self.worst_lag_ns.fetch_max(lag_ns, Relaxed);
    }

    /// A request was sent.
    pub fn sent(&self) {
        self.sent.fetch_add(1, Relaxed);
    }

    /// Text arrived.
    pub fn tokens(&self, count: u64) {
        self.tokens.fetch_add(count, Relaxed);
    }

    /// A request is over.
    pub fn finished(&self, record: &RequestRecord) {
        self.finished.fetch_add(1, Relaxed);
        let failed = !record.succeeded() && !record.failed_as(FailureClass::Cancelled);
        self.failed.fetch_add(u64::from(failed), Relaxed);
    }

    /// The counters now; the worst lag begins anew.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            issued: self.issued.load(Relaxed),
            sent: self.sent.load(Relaxed),
            finished: self.finished.load(Relaxed),
            failed: self.failed.load(Relaxed),
            tokens: self.tokens.load(Relaxed),
            worst_lag_ns: self.worst_lag_ns.swap(0, Relaxed),
        }
    }
}
