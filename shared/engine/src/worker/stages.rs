//! A worker's part of a request's trace: stages that touch, siblings under the gateway's span.

use std::time::{SystemTime, UNIX_EPOCH};

use chassis::telemetry::Value;
use chassis::telemetry::names::{stage, tandem};
use protocol::{Finish, Leg, LegStages, Opening, Role, WorkerId};

use super::registry::Entry;

/// The stages up to the first token of this leg, each starting where the one before ended.
pub(super) fn first_token(entry: &Entry, opening: Option<&Opening>, chunks: u32, sent: SystemTime) {
    let admitted = entry.marks.admitted.unwrap_or(entry.sent);
    let fetched = entry.marks.fetched.unwrap_or(admitted);
    let trace = &entry.trace;
    let tokens = Value::from(entry.tokens as i64);
    if matches!(entry.leg, Leg::Decode { .. }) {
        trace.stage(stage::DECODE_QUEUE, entry.sent..admitted, attempt(entry));
        trace.stage(stage::DECODE_KV_PULL, admitted..fetched, []);
        trace.stage(stage::DECODE_FIRST_STEP, fetched..sent, []);
        return;
    }
    let (cached, stored) =
        opening.map_or((0, 0), |opening| (opening.cached_tokens, opening.stored_tokens));
    trace.stage(stage::PREFILL_QUEUE, entry.sent..admitted, attempt(entry));
    trace.stage(
        stage::PREFILL_KV_FETCH,
        admitted..fetched,
        [
            (tandem::CACHED_TOKENS, Value::from(i64::from(cached))),
            ("tandem.stored_tokens", Value::from(i64::from(stored))),
        ],
    );
    let computed = Value::from(entry.tokens as i64 - i64::from(cached));
    trace.stage(
        stage::PREFILL_COMPUTE,
        fetched..sent,
        [
            ("tandem.prompt_tokens", tokens),
            ("tandem.computed_tokens", computed),
            ("tandem.chunks", Value::from(i64::from(chunks))),
        ],
    );
}

/// What the gateway is told of them, when it asked.
pub(super) fn told(entry: &Entry, worker: &WorkerId) -> Option<Box<LegStages>> {
    if !entry.tell_stages {
        return None;
    }
    let admitted = entry.marks.admitted.unwrap_or(entry.sent);
    let fetched = entry.marks.fetched.unwrap_or(admitted);
    let role = match entry.leg {
        Leg::Decode { .. } => Role::Decode,
        Leg::Prefill { .. } | Leg::Whole => Role::Prefill,
    };
    Some(Box::new(LegStages {
        worker: worker.clone(),
        role,
        admitted_us: epoch_us(admitted),
        fetched_us: epoch_us(fetched),
    }))
}

fn epoch_us(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

/// All blocks of a prompt are in the store.
pub(super) fn stored(entry: &Entry, at: SystemTime) {
    let start = entry.marks.first_put.unwrap_or(at);
    entry.trace.stage(
        stage::KV_PUT,
        start..at,
        [
            (tandem::BLOCKS, Value::from(i64::from(entry.puts.stored))),
            (tandem::BYTES, Value::from(entry.puts.bytes as i64)),
            ("tandem.unstored_blocks", Value::from(entry.puts.unstored.len() as i64)),
        ],
    );
}

/// A sequence ended on this worker.
pub(super) fn finished(entry: &Entry, finish: Finish, output_tokens: u32, at: SystemTime) {
    let start = entry.marks.first_token.unwrap_or(at);
    let reason = match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    };
    entry.trace.stage(
        stage::DECODE_GENERATE,
        start..at,
        [
            ("tandem.output_tokens", Value::from(i64::from(output_tokens))),
            ("tandem.finish", Value::from(reason)),
        ],
    );
}

/// A sequence was given up: the stage it was in ends here, and says why.
pub(super) fn given_up(entry: &Entry, reason: &'static str, at: SystemTime) {
    let decode = matches!(entry.leg, Leg::Decode { .. });
    let marks = &entry.marks;
    let (name, start) = match (marks.first_token, marks.fetched, marks.admitted) {
        (Some(start), _, _) if decode || entry.leg == Leg::Whole => (stage::DECODE_GENERATE, start),
        (Some(_), _, _) => return,
        (None, Some(start), _) if decode => (stage::DECODE_FIRST_STEP, start),
        (None, Some(start), _) => (stage::PREFILL_COMPUTE, start),
        (None, None, Some(start)) if decode => (stage::DECODE_KV_PULL, start),
        (None, None, Some(start)) => (stage::PREFILL_KV_FETCH, start),
        (None, None, None) if decode => (stage::DECODE_QUEUE, entry.sent),
        (None, None, None) => (stage::PREFILL_QUEUE, entry.sent),
    };
    let ended = ("tandem.ended", Value::from(reason));
    entry.trace.stage(name, start..at.max(start), [ended]);
}

fn attempt(entry: &Entry) -> [(&'static str, Value); 2] {
    [
        (tandem::ATTEMPT, Value::from(i64::from(entry.key.attempt.0))),
        ("tandem.leg", Value::from(entry.leg.as_str())),
    ]
}
