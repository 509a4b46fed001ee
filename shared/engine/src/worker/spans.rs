//! A worker's spans that are no stages: messages, lookups, and the steps that requests share.

use std::time::{SystemTime, UNIX_EPOCH};

use chassis::telemetry::names::tandem;
use chassis::telemetry::{OpenSpan, SpanKind, Trace, Tracer, Value, names};
use protocol::{Answer, Job};

use super::registry::Registry;
use super::serve::sent_at;
use crate::events::StepRecord;

const PROCESS: &str = "process tandem.v1.worker.{worker}.job";
const DESTINATION: &str = "tandem.v1.worker.{worker}.job";
const LOOKUP: &str = "kv lookup";

/// A job was taken from the bus at `received`, and has been answered.
pub(super) fn processed(sending: &Trace, job: &Job, answer: &Answer, received: SystemTime) {
    let mut span = sending.open(PROCESS, SpanKind::Consumer, received);
    span.link(sending);
    span.attribute(names::MESSAGING_SYSTEM, names::NATS);
    span.attribute(names::MESSAGING_OPERATION_NAME, "process");
    span.attribute(names::MESSAGING_OPERATION_TYPE, "process");
    span.attribute(names::MESSAGING_DESTINATION_TEMPLATE, DESTINATION);
    let waited = received.duration_since(sent_at(job.sent_us)).unwrap_or_default();
    span.attribute(tandem::BROKER_WAIT_MS, waited.as_secs_f64() * 1e3);
    span.attribute(tandem::ATTEMPT, job.key.attempt.0);
    span.attribute(tandem::LEG, job.leg.as_str());
    match answer {
        Answer::Accepted => span.attribute(tandem::ANSWER, "accepted"),
        Answer::Refused(refusal) => {
            // A refusal is an answer, and the request may well succeed elsewhere.
            span.attribute(tandem::ANSWER, refusal.class.as_str());
            span.attribute(tandem::LOST_REASON, refusal.message.clone());
        }
    }
    span.end_at(SystemTime::now());
}

/// The store is asked, if the request is recorded.
pub(super) fn lookup(trace: &Trace, asked: usize) -> Option<OpenSpan> {
    if !trace.is_recorded() {
        return None;
    }
    let mut span = trace.open(LOOKUP, SpanKind::Client, SystemTime::now());
    span.attribute(tandem::BLOCKS, asked);
    Some(span)
}

/// The store has answered.
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

/// A step is the root of a trace of its own; it and the stages of its requests link to each other.
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
    let place = tracer.shared_work(name, step.time, &causes, attributes);
    for key in &step.keys {
        if let Some(entry) = registry.get_mut(key) {
            entry.notes.step(place.clone());
        }
    }
}

/// Microseconds since the Unix epoch.
pub(super) fn epoch_us(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}
