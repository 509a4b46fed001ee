//! A worker's spans beside stages: messages, lookups, and the steps that requests share.

use std::time::SystemTime;

use chassis::telemetry::names::tandem;
use chassis::telemetry::{OpenSpan, SpanKind, Trace, Tracer, Value, names};
use protocol::{Answer, RequestKey};

use super::registry::Registry;
use crate::events::StepRecord;

const PROCESS: &str = "process tandem.v1.worker.{worker}.job";
const DESTINATION: &str = "tandem.v1.worker.{worker}.job";
const LOOKUP: &str = "kv lookup";

/// A job that arrived.
pub(super) struct Receipt {
    /// The request and attempt.
    pub(super) key: RequestKey,
    /// The leg, as an attribute.
    pub(super) leg: &'static str,
    /// The time of sending.
    pub(super) sent: SystemTime,
    /// The time of receipt.
    pub(super) received: SystemTime,
}

/// Records the processing of a job, from its receipt until now.
pub(super) fn processed(sending: &Trace, receipt: &Receipt, answer: &Answer) {
    let Receipt { key, leg, sent, received } = *receipt;
    let mut span = sending.open(PROCESS, SpanKind::Consumer, received);
    span.link(sending);
    span.attribute(names::MESSAGING_SYSTEM, names::NATS);
    span.attribute(names::MESSAGING_OPERATION_NAME, "process");
    span.attribute(names::MESSAGING_OPERATION_TYPE, "process");
    span.attribute(names::MESSAGING_DESTINATION_TEMPLATE, DESTINATION);
    let waited = received.duration_since(sent).unwrap_or_default();
    span.attribute(tandem::BROKER_WAIT_MS, waited.as_secs_f64() * 1e3);
    span.attribute(tandem::ATTEMPT, key.attempt.0);
    span.attribute(tandem::LEG, leg);
    match answer {
        Answer::Accepted => span.attribute(tandem::ANSWER, "accepted"),
        Answer::Refused(refusal) => {
            // A refusal is no error: the request may succeed on another worker.
            span.attribute(tandem::ANSWER, refusal.class.as_str());
            span.attribute(tandem::LOST_REASON, refusal.message.clone());
        }
    }
    span.end_at(SystemTime::now());
}

/// Opens the span of a lookup, if the request is recorded.
pub(super) fn lookup(trace: &Trace, asked: usize) -> Option<OpenSpan> {
    if !trace.is_recorded() {
        return None;
    }
    let mut span = trace.open(LOOKUP, SpanKind::Client, SystemTime::now());
    span.attribute(tandem::BLOCKS, asked);
    Some(span)
}

/// Ends the span of a lookup with its outcome.
pub(super) fn looked_up(span: Option<OpenSpan>, stored: Result<u32, &bus::RequestError>) {
    let Some(mut span) = span else { return };
    match stored {
        Ok(stored) => {
            span.attribute(tandem::STORED_BLOCKS, stored);
            span.attribute(tandem::HIT, stored != 0);
        }
        Err(error) => span.fail(error.class().as_str(), error.to_string()),
    }
    span.end_at(SystemTime::now());
}

/// Records a step as the root of a trace of its own; it and the stages of its requests link to each
/// other.
pub(super) fn stepped(tracer: &Tracer, registry: &mut Registry, step: StepRecord) {
    let causes: Vec<Trace> =
        step.keys.iter().filter_map(|key| Some(registry.get(key)?.trace.clone())).collect();
    if causes.is_empty() {
        return;
    }
    let name = match (step.prefill_tokens, step.decode_sequences) {
        (_, 0) => "prefill step",
        (0, _) => "decode step",
        _ => "mixed step",
    };
    let attributes: [(&'static str, Value); 5] = [
        (tandem::BATCH, step.sequences.into()),
        (tandem::PREFILL_TOKENS, step.prefill_tokens.into()),
        (tandem::DECODE_SEQUENCES, step.decode_sequences.into()),
        (tandem::FORWARD_MS, (step.forward.as_secs_f64() * 1e3).into()),
        (tandem::STEPS_UNRECORDED, step.unrecorded.into()),
    ];
    let trace = tracer.shared_work(name, step.time, &causes, attributes);
    for key in &step.keys {
        if let Some(entry) = registry.get_mut(key) {
            entry.trace_notes.step(trace.clone());
        }
    }
}
