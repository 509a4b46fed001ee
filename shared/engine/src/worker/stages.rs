//! A worker's part of a request's trace: stages that touch, siblings under the gateway's span.

use std::time::SystemTime;

use chassis::clock::epoch_us;
use chassis::telemetry::names::{event, stage, tandem};
use chassis::telemetry::{OpenSpan, Value};
use protocol::{BLOCK_TOKENS, Finish, Leg, LegStages, Opening, Role, WorkerId};

use super::registry::Entry;

/// Records the stages up to the first token of this leg; each starts where the last one ended.
pub(super) fn first_token(
    entry: &mut Entry,
    opening: Option<&Opening>,
    chunks: u32,
    sent: SystemTime,
) {
    let (admitted, fetched) = ends(entry);
    let steps = std::mem::take(&mut entry.trace_notes.steps);
    let decode = matches!(entry.leg, Leg::Decode { .. });
    let [queue, fetch, compute] = if decode {
        [stage::DECODE_QUEUE, stage::DECODE_KV_PULL, stage::DECODE_FIRST_STEP]
    } else {
        [stage::PREFILL_QUEUE, stage::PREFILL_KV_FETCH, stage::PREFILL_COMPUTE]
    };
    let trace = &entry.trace;
    if let Some(span) = trace.begin_stage(queue, &(entry.sent..admitted)) {
        end(span, entry, admitted);
    }
    if let Some(mut span) = trace.begin_stage(fetch, &(admitted..fetched)) {
        let took = fetched.duration_since(admitted).unwrap_or_default();
        describe_transfer(&mut span, entry, took.as_secs_f64());
        if let Some(opening) = opening.filter(|_| !decode) {
            let stored_blocks = i64::from(opening.stored_tokens) / BLOCK_TOKENS as i64;
            span.attribute(tandem::CACHED_TOKENS, opening.cached_tokens);
            span.attribute(tandem::STORED_TOKENS, opening.stored_tokens);
            span.attribute(tandem::STORED_BLOCKS, stored_blocks);
            span.attribute(tandem::HIT, opening.cached_tokens != 0);
            span.attribute(tandem::TIER, tier(opening));
        }
        end(span, entry, fetched);
    }
    if let Some(mut span) = trace.begin_stage(compute, &(fetched..sent)) {
        steps.iter().for_each(|step| span.link(step));
        if !decode {
            let cached = opening.map_or(0, |opening| i64::from(opening.cached_tokens));
            span.attribute(tandem::PROMPT_TOKENS, entry.tokens as i64);
            span.attribute(tandem::COMPUTED_TOKENS, entry.tokens as i64 - cached);
            span.attribute(tandem::CHUNKS, chunks);
        }
        preempted(&mut span, entry);
        end(span, entry, sent);
    }
    entry.trace_notes.preempted.clear();
}

/// Returns the ends of the queue and fetch stages.
fn ends(entry: &Entry) -> (SystemTime, SystemTime) {
    let admitted = entry.stage_times.admitted.unwrap_or(entry.sent);
    (admitted, entry.stage_times.fetched.unwrap_or(admitted))
}

fn describe_transfer(span: &mut OpenSpan, entry: &Entry, seconds: f64) {
    let transfer = &entry.trace_notes.transfer;
    span.attribute(tandem::BLOCKS, transfer.blocks);
    span.attribute(tandem::BYTES, transfer.bytes);
    if let Some(path) = transfer.path {
        span.attribute(tandem::PATH, path);
    }
    if transfer.bytes != 0 && seconds > 0.0 {
        span.attribute(tandem::MB_PER_S, transfer.bytes as f64 / 1e6 / seconds);
    }
}

/// Returns the source of reused KV.
fn tier(opening: &Opening) -> &'static str {
    let pool = opening.cached_tokens.saturating_sub(opening.stored_tokens);
    match (pool, opening.stored_tokens) {
        (0, 0) => "none",
        (_, 0) => "pool",
        (0, _) => "store",
        _ => "both",
    }
}

fn preempted(span: &mut OpenSpan, entry: &Entry) {
    for (times, at) in &entry.trace_notes.preempted {
        span.event(event::PREEMPTED, *at, [(tandem::PREEMPTIONS, Value::from(*times))]);
    }
}

fn end(mut span: OpenSpan, entry: &Entry, at: SystemTime) {
    span.attribute(tandem::ATTEMPT, entry.key.attempt.0);
    span.attribute(tandem::LEG, entry.leg.as_str());
    span.end_at(at);
}

/// Returns the times of the stages for the gateway, if the job asked for them.
pub(super) fn leg_stages(entry: &Entry, worker: &WorkerId) -> Option<Box<LegStages>> {
    if !entry.report_stages {
        return None;
    }
    let (admitted, fetched) = ends(entry);
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

/// Records the upload of a prompt, whose puts have all ended.
pub(super) fn uploaded(entry: &Entry, failed: usize, at: SystemTime) {
    let start = entry.stage_times.first_put.unwrap_or(at);
    let Some(mut span) = entry.trace.begin_stage(stage::KV_PUT, &(start..at)) else { return };
    span.attribute(tandem::BLOCKS, entry.upload.stored);
    span.attribute(tandem::BYTES, entry.upload.bytes);
    span.attribute(tandem::UNSTORED_BLOCKS, failed);
    end(span, entry, at);
}

/// Records the generation of a sequence that ended on this worker.
pub(super) fn finished(entry: &Entry, finish: Finish, output_tokens: u32, at: SystemTime) {
    let start = entry.stage_times.first_token.unwrap_or(at);
    let reason = match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    };
    if let Some(mut span) = entry.trace.begin_stage(stage::DECODE_GENERATE, &(start..at)) {
        span.attribute(tandem::OUTPUT_TOKENS, output_tokens);
        span.attribute(tandem::FINISH, reason);
        describe_generating(&mut span, entry);
        end(span, entry, at);
    }
}

fn describe_generating(span: &mut OpenSpan, entry: &Entry) {
    entry.trace_notes.steps.iter().for_each(|step| span.link(step));
    for (tokens, at) in &entry.trace_notes.paces {
        span.event(event::TOKENS, *at, [(tandem::TOKENS, Value::from(*tokens))]);
    }
    preempted(span, entry);
}

/// Ends the present stage of a cancelled sequence, with the reason. The stage is no error of this
/// worker; the gateway's span carries the error.
pub(super) fn cancelled(entry: &Entry, reason: &'static str, at: SystemTime) {
    let decode = matches!(entry.leg, Leg::Decode { .. });
    let times = &entry.stage_times;
    let (name, start) = match (times.first_token, times.fetched, times.admitted) {
        (Some(start), _, _) if decode || entry.leg == Leg::Whole => (stage::DECODE_GENERATE, start),
        (Some(_), _, _) => return,
        (None, Some(start), _) if decode => (stage::DECODE_FIRST_STEP, start),
        (None, Some(start), _) => (stage::PREFILL_COMPUTE, start),
        (None, None, Some(start)) if decode => (stage::DECODE_KV_PULL, start),
        (None, None, Some(start)) => (stage::PREFILL_KV_FETCH, start),
        (None, None, None) if decode => (stage::DECODE_QUEUE, entry.sent),
        (None, None, None) => (stage::PREFILL_QUEUE, entry.sent),
    };
    let at = at.max(start);
    let Some(mut span) = entry.trace.begin_stage(name, &(start..at)) else { return };
    span.attribute(tandem::ENDED, reason);
    span.event(event::CANCELLED, at, [(tandem::ENDED, Value::from(reason))]);
    describe_generating(&mut span, entry);
    end(span, entry, at);
}
