//! Counters that requests update during a run, for the progress display and for scraping.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::send::record::{FailureClass, RequestRecord};
use crate::send::slo::Slo;

/// Largest time to first token of the histogram: 1 hour.
const TTFT_US_MAX: u64 = 3_600_000_000;

/// Counters of a run in progress.
#[derive(Debug)]
pub struct Live {
    slos: Vec<Slo>,
    issued: AtomicU64,
    sent: AtomicU64,
    first_tokens: AtomicU64,
    finished: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
    good: AtomicU64,
    tokens: AtomicU64,
    worst_lag_ns: AtomicI64,
    worst_lag_ever_ns: AtomicI64,
    ttft: Mutex<Ttft>,
}

/// Histograms of the time to first token, in microseconds.
#[derive(Debug)]
struct Ttft {
    all: Histogram<u64>,
    /// Times since the last snapshot.
    recent: Histogram<u64>,
}

/// Counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// Requests that the generator has handled.
    pub issued: u64,
    /// Requests sent.
    pub sent: u64,
    /// Finished requests, including failures.
    pub finished: u64,
    /// Failed requests, without those that the operator cancelled.
    pub failed: u64,
    /// Requests that were not sent, because too many were in flight.
    pub dropped: u64,
    /// Requests that met every SLO; `None` without SLOs.
    pub good: Option<u64>,
    /// Chunks of text received.
    pub tokens: u64,
    /// Largest lag since the last snapshot.
    pub worst_lag_ns: i64,
    /// Median, 90th and 99th percentile of the time to first token, from the intended time.
    pub ttft_us: Option<[u64; 3]>,
    /// Median of the time to first token since the last snapshot.
    pub recent_ttft_us: Option<u64>,
}

impl Snapshot {
    /// Returns the number of requests in flight.
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
    /// Creates counters at zero. A good request meets all `slos`.
    pub fn new(slos: Vec<Slo>) -> Self {
        let histogram = || {
            Histogram::new_with_bounds(1, TTFT_US_MAX, 2)
                .expect("the bounds are constants in order")
        };
        Self {
            slos,
            issued: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            first_tokens: AtomicU64::new(0),
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

    /// Counts a request that the generator handles, `lag_ns` after its intended time.
    pub fn issued(&self, lag_ns: i64) {
        self.issued.fetch_add(1, Relaxed);
        self.worst_lag_ns.fetch_max(lag_ns, Relaxed);
        self.worst_lag_ever_ns.fetch_max(lag_ns, Relaxed);
    }

    /// Counts a sent request.
    pub fn sent(&self) {
        self.sent.fetch_add(1, Relaxed);
    }

    /// Counts a request whose first token arrived.
    pub fn first_token(&self) {
        self.first_tokens.fetch_add(1, Relaxed);
    }

    /// Returns the number of requests that are due and have no token yet.
    pub fn waiting(&self) -> u64 {
        self.issued.load(Relaxed).saturating_sub(self.first_tokens.load(Relaxed))
    }

    /// Counts received chunks of text.
    pub fn tokens(&self, count: u64) {
        self.tokens.fetch_add(count, Relaxed);
    }

    /// Counts a finished request.
    pub fn finished(&self, record: &RequestRecord) {
        self.finished.fetch_add(1, Relaxed);
        // A request that finished without a token no longer waits for one.
        self.first_tokens.fetch_add(u64::from(record.reply.tokens.is_empty()), Relaxed);
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

    /// Returns the counters, and resets the largest lag and the recent times.
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

    /// Returns the counters with the largest lag of the whole run, and resets nothing.
    pub fn totals(&self) -> Snapshot {
        let ttft_us = {
            let ttft = self.ttft.lock().unwrap_or_else(PoisonError::into_inner);
            let all = &ttft.all;
            (!all.is_empty()).then(|| [0.5, 0.9, 0.99].map(|q| all.value_at_quantile(q)))
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
