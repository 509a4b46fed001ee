//! The dispatcher's spans: routes, published jobs, lost attempts.

use std::ops::Range;
use std::time::SystemTime;

use chassis::telemetry::names::{event, stage, tandem};
use chassis::telemetry::{OpenSpan, SpanKind, Trace, Value, names};
use protocol::{Answer, Attempt, Job, Refusal, WorkerId};
use scheduling::route::Placement;

use super::Generation;

const PUBLISH: &str = "publish tandem.v1.worker.{worker}.job";
const DESTINATION: &str = "tandem.v1.worker.{worker}.job";

/// A route stage that is over; its span stays open until the prediction can be compared.
pub(super) struct Routed {
    span: Option<OpenSpan>,
    end: SystemTime,
}

impl Routed {
    /// Records the time from the jobs' departure to the first token.
    pub(super) fn record_actual(mut self, ttft_ms: f64) {
        if let Some(span) = &mut self.span {
            span.attribute(tandem::ACTUAL_TTFT_MS, ttft_ms);
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

/// Begins the span of a route: placement and price of an attempt.
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

/// An attempt that was lost.
pub(super) struct LostAttempt<'a> {
    pub(super) attempt: Attempt,
    pub(super) reason: Option<&'a Refusal>,
    /// Output tokens that arrived before.
    pub(super) tokens: usize,
    /// From its last event to the next placement.
    pub(super) time: Range<SystemTime>,
}

/// Records a lost attempt in log and trace.
pub(super) fn lost(generation: &Generation, lost: LostAttempt<'_>) {
    let LostAttempt { attempt, reason, tokens, time } = lost;
    let trace_id = generation.trace.trace_id();
    tracing::info!(
        request = %generation.request,
        %trace_id,
        attempt = attempt.0,
        reason = reason.map(|refusal| refusal.message.as_str()),
        tokens,
        "lost an attempt"
    );
    // The trace is kept, however the request ends.
    generation.trace.decide(true);
    let Some(mut span) = generation.trace.begin_stage(stage::LOST_ATTEMPT, &time) else { return };
    span.attribute(tandem::ATTEMPT, attempt.0);
    span.attribute(tandem::OUTPUT_TOKENS, tokens);
    if let Some(refusal) = reason {
        span.attribute(tandem::LOST_CLASS, refusal.class.as_str());
        span.attribute(tandem::LOST_REASON, refusal.message.clone());
    }
    let name = if tokens == 0 { event::RETRIED } else { event::MIGRATED };
    span.event(name, time.end, [(tandem::ATTEMPT, Value::from(attempt.0 + 1))]);
    span.end_at(time.end);
}

/// The span of a job from its departure to the worker's reply.
pub(super) struct Publishing {
    span: Option<OpenSpan>,
}

impl Publishing {
    /// Begins the span of a job that departs now. Returns the context that travels with the job, too.
    pub(super) fn start(trace: &Trace, worker: &WorkerId, job: &Job) -> (Self, bus::Context) {
        if !trace.is_recorded() {
            return (Self { span: None }, bus::Context::new(trace.traceparent()));
        }
        let mut span = trace.open(PUBLISH, SpanKind::Producer, SystemTime::now());
        span.attribute(names::MESSAGING_SYSTEM, names::NATS);
        span.attribute(names::MESSAGING_OPERATION_NAME, "publish");
        span.attribute(names::MESSAGING_OPERATION_TYPE, "send");
        span.attribute(names::MESSAGING_DESTINATION_TEMPLATE, DESTINATION);
        span.attribute(tandem::WORKER, worker.as_str().to_owned());
        span.attribute(tandem::LEG, job.leg.as_str());
        span.attribute(tandem::ATTEMPT, job.key.attempt.0);
        let context = bus::Context::within(trace.traceparent(), span.context().traceparent());
        (Self { span: Some(span) }, context)
    }

    /// Ends the span with the worker's reply.
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
