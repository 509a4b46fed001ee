//! The gateway's instruments: vLLM's names, which dashboards know, and ours.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use chassis::metrics::{
    ITL_SECONDS, REQUEST_SECONDS, Registry, TOKENS, TTFT_SECONDS, TracedHistogram,
};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::endpoint::Endpoint;

/// What `/metrics` shows; grows when the bus is there. Cheap to clone.
#[derive(Clone)]
pub struct Exposition {
    registry: Arc<RwLock<Registry>>,
}

impl Exposition {
    /// Shows what is in `registry`.
    pub fn new(registry: Registry) -> Self {
        Self { registry: Arc::new(RwLock::new(registry)) }
    }

    /// Adds instruments.
    pub(crate) fn extend(&self, register: impl FnOnce(&mut Registry)) {
        register(&mut self.registry.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// The OpenMetrics text.
    pub(crate) fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        let registry = self.registry.read().unwrap_or_else(PoisonError::into_inner);
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

type Labels = Vec<(&'static str, String)>;

/// Counts and times what clients see.
pub struct HttpMetrics {
    pub(crate) ttft_seconds: TracedHistogram,
    pub(crate) itl_seconds: TracedHistogram,
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
}

impl HttpMetrics {
    /// Instruments in `registry`, labelled with the model's name.
    pub fn new(registry: &mut Registry, model: &str) -> Self {
        let metrics = Self {
            ttft_seconds: TracedHistogram::new(&TTFT_SECONDS),
            itl_seconds: TracedHistogram::new(&ITL_SECONDS),
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
        };
        let label = ("model_name".into(), model.to_owned().into());
        metrics.register(registry.sub_registry_with_label(label));
        metrics
    }

    fn register(&self, registry: &mut Registry) {
        registry.register(
            "vllm:time_to_first_token_seconds",
            "Time from a request's arrival to its first token on the way to the client",
            self.ttft_seconds.clone(),
        );
        registry.register(
            "vllm:inter_token_latency_seconds",
            "Time between two consecutive tokens of a choice",
            self.itl_seconds.clone(),
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
        // What did not happen is 0, not unknown.
        for reason in ["stop", "length", "abort"] {
            drop(self.successes.get_or_create(&vec![("finished_reason", reason.to_owned())]));
        }
        for endpoint in [Endpoint::Chat, Endpoint::Completion] {
            let labels =
                vec![("endpoint", endpoint.path().to_owned()), ("status", "200".to_owned())];
            drop(self.responses.get_or_create(&labels));
        }
    }

    /// A choice ended for `reason`.
    pub(crate) fn choice_ended(&self, reason: &'static str) {
        self.successes.get_or_create(&vec![("finished_reason", reason.to_owned())]).inc();
    }

    /// A generation request was answered.
    pub(crate) fn answered(&self, endpoint: &'static str, status: u16) {
        let labels = vec![("endpoint", endpoint.to_owned()), ("status", status.to_string())];
        self.responses.get_or_create(&labels).inc();
    }
}
