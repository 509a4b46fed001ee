//! The dispatcher's part of a request's trace: where it was sent, why, and what was lost.

use std::ops::Range;
use std::time::SystemTime;

use chassis::telemetry::names::{event, stage, tandem};
use chassis::telemetry::{OpenSpan, SpanKind, Trace, Value, names};
use protocol::{Answer, Attempt, Leg, Refusal, WorkerId};
use scheduling::route::Placement;

use super::Generation;

const PUBLISH: &str = "publish tandem.v1.worker.{worker}.job";
const DESTINATION: &str = "tandem.v1.worker.{worker}.job";

/// A route stage that is over and waits to be told how right it was.
pub(super) struct Routed {
    span: Option<OpenSpan>,
    end: SystemTime,
}

impl Routed {
    /// The first token was here so long after the jobs were sent.
    pub(super) fn felt(mut self, ttft_ms: f64) {
        if let Some(span) = &mut self.span {
            span.attribute(tandem::FELT_TTFT_MS, ttft_ms);
        }
    }
}

impl Drop for Routed {
    fn drop(&mut self) {
        if let Some(span) = self.span.take() {
            span.end_at(self.end);
        }
    }
}

/// Where an attempt runs, and at what price.
pub(super) fn route(
    generation: &Generation,
    attempt: Attempt,
    placement: &Placement,
    time: Range<SystemTime>,
) -> Routed {
    let Some(mut span) = generation.trace.begin_stage(stage::ROUTE, &time) else {
        return Routed { span: None, end: time.end };
    };
    let chosen = placement.chosen();
    let all: Vec<String> = placement.candidates.iter().map(ToString::to_string).collect();
    span.attribute(tandem::REQUEST_ID, generation.request.to_string());
    span.attribute(tandem::ATTEMPT, attempt.0);
    span.attribute(tandem::ROUTE_CHOSEN, chosen.choice.to_string());
    span.attribute(tandem::ROUTE_PRICE_MS, chosen.price.total_ms());
    span.attribute(tandem::ROUTE_PARTS, chosen.price.to_string());
    span.attribute(tandem::ROUTE_CANDIDATES, all.join("; "));
    span.attribute(tandem::ROUTE_CONSIDERED, placement.considered);
    span.attribute(tandem::ROUTE_EXPECTED_CACHED_TOKENS, placement.cached_tokens);
    span.attribute(tandem::PREDICTED_TTFT_MS, chosen.price.ttft_ms());
    Routed { span: Some(span), end: time.end }
}

/// What is lost with an attempt: the time since the last that was heard of it.
pub(super) fn lost(
    generation: &Generation,
    attempt: Attempt,
    (why, tokens): (Option<&Refusal>, usize),
    time: Range<SystemTime>,
) {
    let trace_id = generation.trace.trace_id();
    let reason = why.map(|why| why.message.as_str());
    tracing::info!(request = %generation.request, %trace_id, attempt = attempt.0, reason, tokens, "attempt lost");
    // Its trace is worth looking at, however it ends.
    generation.trace.decide(true);
    let Some(mut span) = generation.trace.begin_stage(stage::LOST_ATTEMPT, &time) else { return };
    span.attribute(tandem::ATTEMPT, attempt.0);
    span.attribute(tandem::OUTPUT_TOKENS, tokens);
    if let Some(why) = why {
        span.attribute(tandem::LOST_CLASS, why.class.as_str());
        span.attribute(tandem::LOST_REASON, why.message.clone());
    }
    let what = if tokens == 0 { event::RETRIED } else { event::MIGRATED };
    span.event(what, time.end, [(tandem::ATTEMPT, Value::from(attempt.0 + 1))]);
    span.end_at(time.end);
}

/// A job on its way to a worker, until the worker has answered.
pub(super) struct Publishing {
    span: Option<OpenSpan>,
}

impl Publishing {
    /// The job leaves at `at`. Gives the context that travels with it, too.
    pub(super) fn start(
        trace: &Trace,
        (worker, leg, attempt): (&WorkerId, &Leg, Attempt),
        at: SystemTime,
    ) -> (Self, bus::Context) {
        if !trace.is_recorded() {
            return (Self { span: None }, bus::Context::new(trace.traceparent()));
        }
        let mut span = trace.open(PUBLISH, SpanKind::Producer, at);
        span.attribute(names::MESSAGING_SYSTEM, names::NATS);
        span.attribute(names::MESSAGING_OPERATION_NAME, "publish");
        span.attribute(names::MESSAGING_OPERATION_TYPE, "send");
        span.attribute(names::MESSAGING_DESTINATION_TEMPLATE, DESTINATION);
        span.attribute(tandem::WORKER, worker.as_str().to_owned());
        span.attribute(tandem::LEG, leg.as_str());
        span.attribute(tandem::ATTEMPT, attempt.0);
        let context = bus::Context::within(trace.traceparent(), span.context().traceparent());
        (Self { span: Some(span) }, context)
    }

    /// The worker answered, or did not.
    pub(super) fn end(self, answer: Result<&Answer, &bus::RequestError>) {
        let Some(mut span) = self.span else { return };
        match answer {
            Ok(Answer::Accepted) => span.attribute(tandem::ANSWER, "accepted"),
            Ok(Answer::Refused(refusal)) => {
                span.attribute(tandem::ANSWER, refusal.class.as_str());
                span.attribute(tandem::LOST_REASON, refusal.message.clone());
            }
            Err(error) => span.fail(error.class().as_str(), error.to_string()),
        }
        span.end_at(SystemTime::now());
    }
}
