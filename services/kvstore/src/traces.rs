//! The kvstore's part of traces: spans of lookups and evictions, and trace verdicts.

use std::time::SystemTime;

use bus::Bus;
use chassis::telemetry::{SpanKind, Tracer, names};
use protocol::RequestKey;

const LOOKUP: &str = "kvstore lookup";
const EVICT: &str = "kvstore evict";

/// The outcome of a lookup.
pub(crate) struct LookupResult {
    /// The request that looked its blocks up.
    pub(crate) key: RequestKey,
    /// Blocks asked for.
    pub(crate) asked: usize,
    /// Those of them that are stored.
    pub(crate) stored: usize,
}

/// Records the span of a lookup, if the caller's trace is recorded.
pub(crate) fn looked_up(
    tracer: &Tracer,
    traceparent: Option<&str>,
    LookupResult { key, asked, stored }: LookupResult,
    start: SystemTime,
) {
    let caller = tracer.continue_from(traceparent);
    if !caller.is_recorded() {
        return;
    }
    let mut span = caller.open(LOOKUP, SpanKind::Server, start);
    span.attribute(names::tandem::REQUEST_ID, key.request.to_string());
    span.attribute(names::tandem::ATTEMPT, key.attempt.0);
    span.attribute(names::tandem::BLOCKS, asked);
    span.attribute(names::tandem::STORED_BLOCKS, stored);
    span.attribute(names::tandem::HIT, stored != 0);
    span.end_at(SystemTime::now());
}

/// Records an eviction, as a trace of its own because no request asked for it.
pub(crate) fn evicted(tracer: &Tracer, namespace: &str, blocks: usize, start: SystemTime) {
    let attributes = [
        (names::tandem::BLOCKS, blocks.into()),
        (names::tandem::NAMESPACE, namespace.to_owned().into()),
    ];
    tracer.shared_work(EVICT, start..SystemTime::now(), &[], attributes);
}

/// Applies the trace verdicts of gateways until the bus is closed.
pub(crate) async fn follow_verdicts(bus: Bus, tracer: Tracer) {
    let mut verdicts = match bus.verdicts().await {
        Ok(verdicts) => verdicts,
        Err(error) => {
            return tracing::warn!(
                %error,
                "failed to subscribe to trace verdicts: unsampled spans will not be exported"
            );
        }
    };
    while let Some(decided) = verdicts.next().await {
        tracer.apply_verdicts(&decided);
    }
}
