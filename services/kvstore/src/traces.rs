//! The kvstore's part of traces: lookups of requests, evictions, and which held spans are wanted.

use std::time::SystemTime;

use bus::Bus;
use chassis::telemetry::{SpanKind, Tracer, names};
use protocol::RequestKey;

const LOOKUP: &str = "kvstore lookup";
const EVICT: &str = "kvstore evict";

/// A worker was told how much of a chain is stored.
pub(crate) fn looked_up(
    tracer: &Tracer,
    traceparent: Option<&str>,
    key: &RequestKey,
    (asked, stored): (usize, usize),
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

/// Blocks were evicted for lack of room: a trace of its own, since no request asked for it.
pub(crate) fn evicted(tracer: &Tracer, namespace: &str, blocks: usize, start: SystemTime) {
    let attributes = [
        (names::tandem::BLOCKS, blocks.into()),
        (names::tandem::NAMESPACE, namespace.to_owned().into()),
    ];
    tracer.shared_work(EVICT, start..SystemTime::now(), &[], attributes);
}

/// Carries out what gateways decide about traces, until the bus is closed.
pub(crate) async fn hear(bus: Bus, tracer: Tracer) {
    let mut verdicts = match bus.verdicts().await {
        Ok(verdicts) => verdicts,
        Err(error) => return tracing::warn!(%error, "held spans will not be decided about"),
    };
    while let Some(decided) = verdicts.next().await {
        tracer.hear(&decided);
    }
}
