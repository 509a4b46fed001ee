//! The gateway's instruments: vLLM's names, which dashboards know, and ours.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use chassis::Trace;
use chassis::metrics::{ITL_SECONDS, REQUEST_SECONDS, Registry, TOKENS, TTFT_SECONDS};
use chassis::telemetry::TracedHistogram;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::endpoint::Endpoint;

/// The content of `/metrics`, which grows when the bus is connected; cheap to clone.
#[derive(Clone)]
pub struct Exposition {
    registry: Arc<RwLock<Registry>>,
}

impl Exposition {
    /// Returns an exposition of `registry`.
    pub fn new(registry: Registry) -> Self {
        Self { registry: Arc::new(RwLock::new(registry)) }
    }

    /// Adds instruments.
    pub(crate) fn extend(&self, register: impl FnOnce(&mut Registry)) {
        register(&mut self.registry.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Returns the OpenMetrics text.
    pub(crate) fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        let registry = self.registry.read().unwrap_or_else(PoisonError::into_inner);
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

type Labels = Vec<(&'static str, String)>;

/// The instruments of HTTP requests.
pub struct HttpMetrics {
    pub(crate) ttft_seconds: CountedHistogram,
    pub(crate) itl_seconds: CountedHistogram,
    pub(crate) tpot_seconds: TracedHistogram,
    pub(crate) request_seconds: TracedHistogram,
    pub(crate) prompt_tokens: Counter,
    pub(crate) cached_tokens: Counter,
    pub(crate) generation_tokens: Counter,
    pub(crate) request_prompt_tokens: TracedHistogram,
    pub(crate) request_generation_tokens: TracedHistogram,
    pub(crate) running: Gauge,
    successes: Family<Labels, Counter>,
    responses: Family<Labels, Counter>,
    /// Statuses that `responses` has.
    statuses: Mutex<BTreeSet<u16>>,
}

/// A histogram whose buckets the page reads back: the metrics library only writes its own to text.
pub(crate) struct CountedHistogram {
    histogram: TracedHistogram,
    bounds: &'static [f64],
    /// Values per bucket; the last one has no bound.
    counts: Box<[AtomicU64]>,
}

/// The state of a histogram at one moment.
#[derive(Debug, PartialEq)]
pub(crate) struct HistogramSnapshot {
    pub(crate) count: u64,
    /// Each finite upper bound with the number of values up to it.
    pub(crate) buckets: Vec<(f64, u64)>,
}

impl CountedHistogram {
    fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { histogram: TracedHistogram::new(bounds), bounds, counts }
    }

    /// Counts a duration in seconds; `trace` may become the bucket's exemplar.
    pub(crate) fn observe_duration(&self, duration: Duration, trace: &Trace) {
        let seconds = duration.as_secs_f64();
        let bucket = self.bounds.partition_point(|&bound| bound < seconds);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.histogram.observe(seconds, trace);
    }

    /// Returns the values counted so far.
    pub(crate) fn snapshot(&self) -> HistogramSnapshot {
        let mut count = 0;
        let mut cumulative = self.counts.iter().map(|bucket| {
            count += bucket.load(Ordering::Relaxed);
            count
        });
        let buckets = self.bounds.iter().copied().zip(cumulative.by_ref()).collect();
        cumulative.for_each(drop);
        HistogramSnapshot { count, buckets }
    }
}

impl HttpMetrics {
    /// Registers the instruments in `registry`, labeled with the model's name.
    pub fn new(registry: &mut Registry, model: &str) -> Self {
        let metrics = Self {
            ttft_seconds: CountedHistogram::new(&TTFT_SECONDS),
            itl_seconds: CountedHistogram::new(&ITL_SECONDS),
            tpot_seconds: TracedHistogram::new(&ITL_SECONDS),
            request_seconds: TracedHistogram::new(&REQUEST_SECONDS),
            prompt_tokens: Counter::default(),
            cached_tokens: Counter::default(),
            generation_tokens: Counter::default(),
            request_prompt_tokens: TracedHistogram::new(&TOKENS),
            request_generation_tokens: TracedHistogram::new(&TOKENS),
            running: Gauge::default(),
            successes: Family::default(),
            responses: Family::default(),
            statuses: Mutex::default(),
        };
        let label = ("model_name".into(), model.to_owned().into());
        metrics.register(registry.sub_registry_with_label(label));
        metrics
    }

    fn register(&self, registry: &mut Registry) {
        registry.register(
            "vllm:time_to_first_token_seconds",
            "Time from a request's arrival to its first token on the way to the client",
            self.ttft_seconds.histogram.clone(),
        );
        registry.register(
            "vllm:inter_token_latency_seconds",
            "Time between two consecutive tokens of a choice",
            self.itl_seconds.histogram.clone(),
        );
        registry.register(
            "vllm:request_time_per_output_token_seconds",
            "Mean time per output token of a request after its first",
            self.tpot_seconds.clone(),
        );
        registry.register(
            "vllm:e2e_request_latency_seconds",
            "Time from a request's arrival to its end",
            self.request_seconds.clone(),
        );
        registry.register(
            "vllm:request_prompt_tokens",
            "Prompt tokens per request",
            self.request_prompt_tokens.clone(),
        );
        registry.register(
            "vllm:request_generation_tokens",
            "Output tokens per request",
            self.request_generation_tokens.clone(),
        );
        registry.register(
            "vllm:prompt_tokens",
            "Prompt tokens of all requests",
            self.prompt_tokens.clone(),
        );
        registry.register(
            "vllm:generation_tokens",
            "Output tokens of all requests",
            self.generation_tokens.clone(),
        );
        registry.register(
            "vllm:num_requests_running",
            "Requests in flight at the gateway",
            self.running.clone(),
        );
        registry.register(
            "vllm:request_success",
            "Choices that ended, by finish reason",
            self.successes.clone(),
        );
        registry.register(
            "tandem_gateway_cached_prompt_tokens",
            "Prompt tokens that were not computed because their KV was cached or stored",
            self.cached_tokens.clone(),
        );
        registry.register(
            "tandem_gateway_responses",
            "Responses to generation requests, by endpoint and HTTP status",
            self.responses.clone(),
        );
        // A count that did not occur yet is 0, not missing.
        for reason in ["stop", "length", "abort"] {
            drop(self.successes.get_or_create(&vec![("finished_reason", reason.to_owned())]));
        }
        for endpoint in ENDPOINTS {
            drop(self.responses.get_or_create(&response_labels(endpoint.path(), 200)));
        }
        self.statuses().insert(200);
    }

    /// Counts a choice that ended for `reason`.
    pub(crate) fn choice_ended(&self, reason: &'static str) {
        self.successes.get_or_create(&vec![("finished_reason", reason.to_owned())]).inc();
    }

    /// Counts a response to a generation request.
    pub(crate) fn answered(&self, endpoint: &'static str, status: u16) {
        self.responses.get_or_create(&response_labels(endpoint, status)).inc();
        self.statuses().insert(status);
    }

    /// Returns the number of responses of both endpoints by status.
    pub(crate) fn responses_by_status(&self) -> BTreeMap<u16, u64> {
        let statuses = self.statuses();
        let counts = statuses.iter().map(|&status| {
            let counters = ENDPOINTS.iter().filter_map(|endpoint| {
                self.responses.get(&response_labels(endpoint.path(), status))
            });
            (status, counters.map(|counter| counter.get()).sum())
        });
        counts.collect()
    }

    fn statuses(&self) -> MutexGuard<'_, BTreeSet<u16>> {
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const ENDPOINTS: [Endpoint; 2] = [Endpoint::Chat, Endpoint::Completion];

fn response_labels(endpoint: &str, status: u16) -> Labels {
    vec![("endpoint", endpoint.to_owned()), ("status", status.to_string())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_counts_what_is_at_or_below_each_bound() {
        let histogram = CountedHistogram::new(&[0.1, 1.0]);
        for ms in [50, 100, 101, 1_001] {
            histogram.observe_duration(Duration::from_millis(ms), &Trace::off());
        }
        let expected = HistogramSnapshot { count: 4, buckets: vec![(0.1, 2), (1.0, 3)] };
        assert_eq!(histogram.snapshot(), expected);
    }
}
