//! Which new traces are recorded at once.

use opentelemetry::trace::{SpanKind, TraceId};
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, ShouldSample as _};

/// Whether the trace is within the share that is sampled: decided by its id alone, so that every
/// OpenTelemetry that knows the ratio decides the same.
pub(super) fn chooses(ratio: f64, trace_id: TraceId) -> bool {
    let sampler = Sampler::TraceIdRatioBased(ratio);
    let result = sampler.should_sample(None, trace_id, "", &SpanKind::Internal, &[], &[]);
    result.decision == SamplingDecision::RecordAndSample
}

#[cfg(test)]
mod tests {
    use opentelemetry_sdk::trace::{IdGenerator as _, RandomIdGenerator};

    use super::*;

    #[test]
    fn the_share_is_kept_and_its_ends_are_exact() {
        let ids = RandomIdGenerator::default();
        let ids: Vec<TraceId> = (0..10_000).map(|_| ids.new_trace_id()).collect();
        assert!(!ids.iter().any(|id| chooses(0.0, *id)));
        assert!(ids.iter().all(|id| chooses(1.0, *id)));
        // Eleven standard deviations to either side.
        let chosen = ids.iter().filter(|id| chooses(0.25, **id)).count();
        assert!((2_000..3_000).contains(&chosen), "{chosen} of 10000");
    }
}
