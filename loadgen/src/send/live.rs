//! Counters that requests update while the run goes on, for the progress display and for scraping.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::send::record::{FailureClass, RequestRecord};
use crate::send::slo::Slo;

/// The longest time to first token that is told apart from longer ones: 1 hour.
const MAX_TTFT_US: u64 = 3_600_000_000;

/// What has happened so far.
#[derive(Debug)]
pub struct Live {
    slos: Vec<Slo>,
    issued: AtomicU64,
    sent: AtomicU64,
    begun: AtomicU64,
    finished: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
    good: AtomicU64,
    tokens: AtomicU64,
    worst_lag_ns: AtomicI64,
    worst_lag_ever_ns: AtomicI64,
    ttft: Mutex<Ttft>,
}

/// Times to first token in microseconds.
#[derive(Debug)]
struct Ttft {
    all: Histogram<u64>,
    /// Since the last snapshot.
    recent: Histogram<u64>,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// Requests the generator got to.
    pub issued: u64,
    /// Requests sent.
    pub sent: u64,
    /// Requests that are over, failures included.
    pub finished: u64,
    /// Requests that failed, those that the operator cut off left out.
    pub failed: u64,
    /// Requests that were not sent because too many were in flight.
    pub dropped: u64,
    /// Requests that met every SLO; none without SLOs.
    pub good: Option<u64>,
    /// Chunks of text received.
    pub tokens: u64,
    /// The worst lag since the last snapshot.
    pub worst_lag_ns: i64,
    /// Median, 90th and 99th percentile of the time to first token so far, from the intended time.
    pub ttft_us: Option<[u64; 3]>,
    /// Median of those since the last snapshot.
    pub recent_ttft_us: Option<u64>,
}

impl Snapshot {
    /// Requests that the generator got to and that are not over.
    pub fn in_flight(&self) -> u64 {
        self.issued.saturating_sub(self.finished)
    }
}

impl Default for Live {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Live {
    /// Nothing yet; good requests are those that meet `slos`.
    pub fn new(slos: Vec<Slo>) -> Self {
        let histogram = || {
            Histogram::new_with_bounds(1, MAX_TTFT_US, 2)
                .expect("the bounds are constants in order")
        };
        Self {
            slos,
            issued: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            finished: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            good: AtomicU64::new(0),
            tokens: AtomicU64::new(0),
            worst_lag_ns: AtomicI64::new(0),
            worst_lag_ever_ns: AtomicI64::new(0),
            ttft: Mutex::new(Ttft { all: histogram(), recent: histogram() }),
        }
    }

    /// The generator got to a request, `lag_ns` late.
    pub fn issued(&self, lag_ns: i64) {
        self.issued.fetch_add(1, Relaxed);
        self.worst_lag_ns.fetch_max(lag_ns, Relaxed);
        self.worst_lag_ever_ns.fetch_max(lag_ns, Relaxed);
    }

    /// A request was sent.
    pub fn sent(&self) {
        self.sent.fetch_add(1, Relaxed);
    }

    /// The first token of a request arrived.
    pub fn begun(&self) {
        self.begun.fetch_add(1, Relaxed);
    }

    /// Requests that are due and have no token yet.
    pub fn waiting(&self) -> u64 {
        self.issued.load(Relaxed).saturating_sub(self.begun.load(Relaxed))
    }

    /// Text arrived.
    pub fn tokens(&self, count: u64) {
        self.tokens.fetch_add(count, Relaxed);
    }

    /// A request is over.
    pub fn finished(&self, record: &RequestRecord) {
        self.finished.fetch_add(1, Relaxed);
        // Over without a token, it waits no longer.
        self.begun.fetch_add(u64::from(record.reply.tokens.is_empty()), Relaxed);
        let failed = !record.succeeded() && !record.failed_as(FailureClass::Cancelled);
        self.failed.fetch_add(u64::from(failed), Relaxed);
        let dropped = record.failed_as(FailureClass::Dropped);
        self.dropped.fetch_add(u64::from(dropped), Relaxed);
        let good = record.succeeded() && self.slos.iter().all(|slo| record.meets(slo));
        self.good.fetch_add(u64::from(good), Relaxed);
        let ttft_ns = record.ttft_ns(record.intended_ns).filter(|_| record.succeeded());
        if let Some(us) = ttft_ns.and_then(|ns| u64::try_from(ns / 1000).ok()) {
            let mut ttft = self.ttft.lock().unwrap_or_else(PoisonError::into_inner);
            ttft.all.saturating_record(us);
            ttft.recent.saturating_record(us);
        }
    }

    /// The counters now; the worst lag and the recent times begin anew.
    pub fn snapshot(&self) -> Snapshot {
        let worst_lag_ns = self.worst_lag_ns.swap(0, Relaxed);
        let recent_ttft_us = {
            let mut ttft = self.ttft.lock().unwrap_or_else(PoisonError::into_inner);
            let median = (!ttft.recent.is_empty()).then(|| ttft.recent.value_at_quantile(0.5));
            ttft.recent.reset();
            median
        };
        Snapshot { worst_lag_ns, recent_ttft_us, ..self.totals() }
    }

    /// The counters now, with the worst lag ever; nothing begins anew.
    pub fn totals(&self) -> Snapshot {
        let quantiles = |all: &Histogram<u64>| [0.5, 0.9, 0.99].map(|q| all.value_at_quantile(q));
        let ttft_us = {
            let ttft = self.ttft.lock().unwrap_or_else(PoisonError::into_inner);
            (!ttft.all.is_empty()).then(|| quantiles(&ttft.all))
        };
        Snapshot {
            issued: self.issued.load(Relaxed),
            sent: self.sent.load(Relaxed),
            finished: self.finished.load(Relaxed),
            failed: self.failed.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
            good: (!self.slos.is_empty()).then(|| self.good.load(Relaxed)),
            tokens: self.tokens.load(Relaxed),
            worst_lag_ns: self.worst_lag_ever_ns.load(Relaxed),
            ttft_us,
            recent_ttft_us: None,
        }
    }
}
