//! Durations of the parts of requests on this worker, under the `vllm:*` names that dashboards use.

use std::time::{Duration, SystemTime};

use chassis::metrics::{REQUEST_SECONDS, Registry, STEP_SECONDS};
use chassis::telemetry::Trace;
use chassis::telemetry::TracedHistogram;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use protocol::{Leg, Opening};

use super::registry::{Entry, Transfer};

type Path = [(&'static str, &'static str); 1];

/// The instruments.
#[derive(Debug)]
pub(super) struct Times {
    queue: TracedHistogram,
    prefill: TracedHistogram,
    decode: TracedHistogram,
    transfer: Family<Path, TracedHistogram, fn() -> TracedHistogram>,
    cache_queries: Counter,
    cache_hits: Counter,
}

impl Default for Times {
    fn default() -> Self {
        let request = || TracedHistogram::new(&REQUEST_SECONDS);
        Self {
            queue: request(),
            prefill: request(),
            decode: request(),
            transfer: Family::new_with_constructor(|| TracedHistogram::new(&STEP_SECONDS)),
            cache_queries: Counter::default(),
            cache_hits: Counter::default(),
        }
    }
}

impl Times {
    pub(super) fn register(&self, registry: &mut Registry) {
        for (name, help, histogram) in [
            ("queue", "Time from a job's sending to its first KV pages", &self.queue),
            ("prefill", "Time from a sequence's first KV pages to its first token", &self.prefill),
            ("decode", "Time from a worker's first token of a request to its last", &self.decode),
        ] {
            registry.register(format!("vllm:request_{name}_time_seconds"), help, histogram.clone());
        }
        for path in ["listen", "fetch", "pull"] {
            self.transfer.get_or_create_owned(&[("path", path)]);
        }
        let help = "Time to receive the KV blocks of a sequence, by the path of the last block";
        registry.register("tandem_worker_kv_transfer_seconds", help, self.transfer.clone());
        let queries =
            "Prompt tokens looked up in the prefix cache: the worker's pool and the store";
        registry.register("vllm:prefix_cache_queries", queries, self.cache_queries.clone());
        let hits = "Prompt tokens served from the prefix cache: the worker's pool or the store";
        registry.register("vllm:prefix_cache_hits", hits, self.cache_hits.clone());
    }

    /// Observes the durations up to the first token of a leg.
    pub(super) fn first_token(&self, entry: &Entry, opening: Option<&Opening>, at: SystemTime) {
        let admitted = entry.stage_times.admitted.unwrap_or(entry.sent);
        self.queue.observe_duration(between(entry.sent, admitted), &entry.trace);
        if let (Some(opening), Leg::Prefill { .. } | Leg::Whole) = (opening, &entry.leg) {
            self.prefill.observe_duration(between(admitted, at), &entry.trace);
            self.cache_queries.inc_by(entry.tokens as u64);
            self.cache_hits.inc_by(u64::from(opening.cached_tokens));
        }
    }

    /// Observes the duration from the first token to the last.
    pub(super) fn finished(&self, entry: &Entry, at: SystemTime) {
        let first = entry.stage_times.first_token.unwrap_or(at);
        self.decode.observe_duration(between(first, at), &entry.trace);
    }

    /// Observes a transfer of blocks.
    pub(super) fn transferred(&self, transfer: &Transfer, took: Duration, trace: &Trace) {
        if let Some(path) = transfer.path.filter(|_| transfer.blocks != 0) {
            self.transfer.get_or_create_owned(&[("path", path)]).observe_duration(took, trace);
        }
    }
}

fn between(start: SystemTime, end: SystemTime) -> Duration {
    end.duration_since(start).unwrap_or_default()
}
