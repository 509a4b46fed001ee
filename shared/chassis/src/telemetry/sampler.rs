//! Which spans are recorded, and which of them are exported at once.

use opentelemetry::trace::{Link, SpanKind, TraceContextExt as _, TraceId, TraceState};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, SamplingResult, ShouldSample};

/// The caller's decision where there is a caller; for a root that others caused, theirs; for any
/// other root, a share of trace ids. What is not sampled is still recorded, to be held, when
/// `keeping`.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) ratio: f64,
    pub(super) keeping: bool,
}

impl ShouldSample for Head {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let parent = parent.filter(|context| context.has_active_span());
        let caller = parent.map(|context| context.span().span_context().clone());
        let (sampled, trace_state) = match caller.filter(|caller| caller.is_valid()) {
            Some(caller) => (caller.is_sampled(), caller.trace_state().clone()),
            None if links.iter().any(|link| link.span_context.is_sampled()) => {
                (true, TraceState::NONE)
            }
            None => {
                let sampler = Sampler::TraceIdRatioBased(self.ratio);
                let chosen = sampler.should_sample(None, trace_id, name, kind, attributes, links);
                (chosen.decision == SamplingDecision::RecordAndSample, chosen.trace_state)
            }
        };
        let decision = match (sampled, self.keeping) {
            (true, _) => SamplingDecision::RecordAndSample,
            (false, true) => SamplingDecision::RecordOnly,
            (false, false) => SamplingDecision::Drop,
        };
        SamplingResult { decision, attributes: Vec::new(), trace_state }
    }
}
