//! Trace contexts that travel with a request, and the spans recorded under them.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use opentelemetry::trace::{
    Event, Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{
    IdGenerator as _, RandomIdGenerator, Sampler, SamplingDecision, ShouldSample as _, SpanData,
    SpanEvents, SpanLinks,
};
use protocol::TraceVerdicts;

use super::held::{HeldSpans, SpanCounts};
use super::histogram::StageTimes;
use super::{Value, context};
use crate::metrics::Registry;

/// Links and events of one span, as OpenTelemetry limits them.
const LINKS_MAX: usize = 128;
const EVENTS_MAX: usize = 128;
/// Attributes that most spans have.
const ATTRIBUTES_USUAL: usize = 8;

/// The trace context of a caller, as its HTTP headers have it; the default is no caller.
#[derive(Debug, Clone, Copy, Default)]
pub struct Caller<'a> {
    /// The W3C `traceparent`.
    pub traceparent: Option<&'a str>,
    /// The W3C `tracestate`.
    pub tracestate: Option<&'a str>,
}

/// The beginning of a span.
struct SpanStart {
    name: Cow<'static, str>,
    kind: SpanKind,
    at: SystemTime,
}

/// The source of the spans of one service; cheap to clone.
#[derive(Debug, Clone)]
pub struct Tracer {
    /// Shared, because every span and every trace context has a tracer.
    exporting: Option<Arc<Exporting>>,
    stage_times: Option<StageTimes>,
}

#[derive(Debug)]
struct Exporting {
    held: HeldSpans,
    scope: InstrumentationScope,
    /// The share of new traces that is sampled.
    ratio: f64,
    /// Unsampled spans are held until their trace verdict.
    keeping: bool,
}

impl Tracer {
    /// Returns a tracer that makes and passes on ids but records nothing.
    pub fn off() -> Self {
        Self { exporting: None, stage_times: None }
    }

    pub(super) fn exporting(held: HeldSpans, ratio: f64, keeping: bool) -> Self {
        let scope = InstrumentationScope::builder("tandem")
            .with_version(env!("CARGO_PKG_VERSION"))
            .with_schema_url(super::names::SCHEMA_URL)
            .build();
        let exporting = Arc::new(Exporting { held, scope, ratio, keeping });
        Self { exporting: Some(exporting), stage_times: None }
    }

    /// Returns the buffer that spans go to, if they are exported.
    pub(super) fn held_spans(&self) -> Option<&HeldSpans> {
        self.exporting.as_ref().map(|exporting| &exporting.held)
    }

    /// Returns whether unsampled spans are held until their trace verdict.
    pub fn is_keeping(&self) -> bool {
        self.exporting.as_ref().is_some_and(|exporting| exporting.keeping)
    }

    /// Takes the trace verdicts of this process since the last call, to report them to others.
    pub fn take_verdicts(&self) -> TraceVerdicts {
        self.held_spans().map(HeldSpans::take_unreported).unwrap_or_default()
    }

    /// Carries out the trace verdicts of another service.
    pub fn apply_verdicts(&self, verdicts: &TraceVerdicts) {
        if let Some(held) = self.held_spans() {
            held.apply(verdicts);
        }
    }

    /// Returns the same tracer with metrics in `registry`: the time of every stage, recorded or not,
    /// and the counts of spans.
    pub fn timing_stages(mut self, registry: &mut Registry) -> Self {
        match &self.exporting {
            Some(exporting) => exporting.held.register(registry),
            None => SpanCounts::default().register(registry),
        }
        self.stage_times = Some(StageTimes::register(registry));
        self
    }

    /// Opens the span of an incoming request: the root of a new trace, or the child of the
    /// caller's span if its `traceparent` is valid.
    ///
    /// The decision to sample a new trace is made here, once. A caller's decision is respected.
    pub fn root_span(
        &self,
        name: impl Into<Cow<'static, str>>,
        kind: SpanKind,
        caller: Caller<'_>,
        start: SystemTime,
    ) -> OpenSpan {
        let parent = caller.traceparent.and_then(|text| context::parse(text, caller.tracestate));
        self.open(SpanStart { name: name.into(), kind, at: start }, parent, &[])
    }

    /// Records work done for several requests at once: the root of a trace of its own, linked to
    /// theirs, and recorded if one of them is. Returns its context, for links back.
    pub fn shared_work(
        &self,
        name: &'static str,
        span: Range<SystemTime>,
        causes: &[Trace],
        attributes: impl IntoIterator<Item = (&'static str, Value)>,
    ) -> Trace {
        let start = SpanStart { name: name.into(), kind: SpanKind::Internal, at: span.start };
        let mut open = self.open(start, None, causes);
        for (key, value) in attributes {
            open.attribute(key, value);
        }
        let trace = open.context();
        open.end_at(span.end);
        trace
    }

    /// Continues the trace of a message.
    ///
    /// Without a valid `traceparent` the result has a trace id for the logs and records nothing:
    /// spans without their request's root would only be orphans.
    pub fn continue_from(&self, traceparent: Option<&str>) -> Trace {
        let caller = traceparent.and_then(|text| context::parse(text, None));
        let held = self.is_keeping() && caller.is_some();
        Trace { tracer: self.clone(), context: caller.unwrap_or_else(unrecorded), held }
    }

    fn open(&self, start: SpanStart, parent: Option<SpanContext>, causes: &[Trace]) -> OpenSpan {
        let Some(exporting) = &self.exporting else {
            // A service that records nothing must not put itself between its caller and its callees.
            let context = parent.unwrap_or_else(unrecorded);
            let trace = Trace { tracer: self.clone(), context, held: false };
            return OpenSpan { span: None, trace };
        };
        let ids = RandomIdGenerator::default();
        let (trace_id, sampled, state) = match &parent {
            Some(parent) => (parent.trace_id(), parent.is_sampled(), parent.trace_state().clone()),
            None => {
                let trace_id = ids.new_trace_id();
                // Work that sampled requests caused is sampled with them.
                let caused = causes.iter().any(Trace::is_sampled);
                let sampled = caused || is_sampled(exporting.ratio, trace_id);
                (trace_id, sampled, TraceState::NONE)
            }
        };
        let flags = TraceFlags::default().with_sampled(sampled);
        let context = SpanContext::new(trace_id, ids.new_span_id(), flags, false, state);
        let recorded = sampled || exporting.keeping;
        let span = recorded.then(|| {
            let mut span = exporting.span(&context, parent.as_ref(), start);
            let causes = causes.iter().take(LINKS_MAX);
            let links = causes.map(|cause| Link::with_context(cause.context.clone()));
            span.links.links.extend(links);
            Box::new(span)
        });
        let trace = Trace { tracer: self.clone(), context, held: exporting.keeping };
        OpenSpan { span, trace }
    }
}

impl Exporting {
    /// Returns a span to be described while it is open. The SDK's own spans would cost more than all
    /// the rest of recording: each decides again, and copies its context again.
    fn span(
        &self,
        context: &SpanContext,
        parent: Option<&SpanContext>,
        start: SpanStart,
    ) -> SpanData {
        SpanData {
            span_context: context.clone(),
            parent_span_id: parent.map_or(SpanId::INVALID, SpanContext::span_id),
            parent_span_is_remote: parent.is_some_and(SpanContext::is_remote),
            span_kind: start.kind,
            name: start.name,
            start_time: start.at,
            end_time: start.at,
            attributes: Vec::with_capacity(ATTRIBUTES_USUAL),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: self.scope.clone(),
        }
    }
}

/// Returns whether the trace is within the share that is sampled: decided by its id alone, so that
/// every OpenTelemetry that has the ratio decides the same.
fn is_sampled(ratio: f64, trace_id: TraceId) -> bool {
    let sampler = Sampler::TraceIdRatioBased(ratio);
    let result = sampler.should_sample(None, trace_id, "", &SpanKind::Internal, &[], &[]);
    result.decision == SamplingDecision::RecordAndSample
}

fn unrecorded() -> SpanContext {
    let ids = RandomIdGenerator::default();
    let (trace_id, span_id) = (ids.new_trace_id(), ids.new_span_id());
    SpanContext::new(trace_id, span_id, TraceFlags::default(), false, TraceState::NONE)
}

/// The context in a trace under which further spans go; travels with the request.
#[derive(Debug, Clone)]
pub struct Trace {
    tracer: Tracer,
    context: SpanContext,
    /// Unsampled spans are held until the trace verdict.
    held: bool,
}

impl Trace {
    /// Returns a trace that records nothing, for tests and for work that belongs to no request.
    pub fn off() -> Self {
        Tracer::off().continue_from(None)
    }

    /// Returns the trace's id, for logs and exemplars.
    pub fn trace_id(&self) -> TraceId {
        self.context.trace_id()
    }

    /// Returns whether this trace was sampled at its head.
    pub fn is_sampled(&self) -> bool {
        self.context.is_sampled()
    }

    /// Returns whether spans are recorded: exported, or held until the trace verdict.
    pub fn is_recorded(&self) -> bool {
        self.is_sampled() || self.held
    }

    /// Returns whether people can look this trace up: sampled at its head, or kept since.
    pub fn is_kept(&self) -> bool {
        self.is_sampled() || (self.held && self.verdict() == Some(true))
    }

    /// Returns the trace verdict; `None` while there is none.
    fn verdict(&self) -> Option<bool> {
        self.tracer.held_spans()?.verdict(self.trace_id())
    }

    /// Gives the trace verdict. The first verdict counts; a trace that was sampled at its head stays
    /// sampled.
    pub fn decide(&self, keep: bool) {
        if let Some(exporting) = self.tracer.exporting.as_ref().filter(|_| self.held)
            && !self.is_sampled()
        {
            exporting.held.decide(self.trace_id(), keep);
        }
    }

    /// Returns the W3C `traceparent` for messages sent on behalf of this span.
    pub fn traceparent(&self) -> String {
        context::format(&self.context)
    }

    /// Returns the W3C `tracestate`; `None` when there is none, and then no header should be sent.
    pub fn tracestate(&self) -> Option<String> {
        Some(self.context.trace_state().header()).filter(|text| !text.is_empty())
    }

    /// Records a stage of the work in this process, as a finished child span, and its time.
    pub fn stage(
        &self,
        name: &'static str,
        span: Range<SystemTime>,
        attributes: impl IntoIterator<Item = (&'static str, Value)>,
    ) {
        if let Some(mut open) = self.begin_stage(name, &span) {
            for (key, value) in attributes {
                open.attribute(key, value);
            }
            open.end_at(span.end);
        }
    }

    /// Records the time of a stage. Returns its span, to be described and ended, if it is recorded.
    pub fn begin_stage(&self, name: &'static str, span: &Range<SystemTime>) -> Option<OpenSpan> {
        if let Some(times) = &self.tracer.stage_times {
            let took = span.end.duration_since(span.start).unwrap_or_default();
            times.observe(name, took, self);
        }
        self.is_recorded().then(|| self.open(name, SpanKind::Internal, span.start))
    }

    /// Opens a child span, to be given attributes, events and an end later.
    pub fn open(
        &self,
        name: impl Into<Cow<'static, str>>,
        kind: SpanKind,
        start: SystemTime,
    ) -> OpenSpan {
        let start = SpanStart { name: name.into(), kind, at: start };
        self.tracer.open(start, Some(self.context.clone()), &[])
    }
}

/// A span that has begun; ends with [`end_at`](Self::end_at), or when dropped.
#[derive(Debug)]
pub struct OpenSpan {
    span: Option<Box<SpanData>>,
    trace: Trace,
}

impl OpenSpan {
    /// Returns the context under this span, for its children.
    pub fn context(&self) -> Trace {
        self.trace.clone()
    }

    /// Sets an attribute.
    pub fn attribute(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(span) = &mut self.span {
            span.attributes.push(KeyValue::new(key, value.into().0));
        }
    }

    /// Adds an event at `at`.
    pub fn event(
        &mut self,
        name: &'static str,
        at: SystemTime,
        attributes: impl IntoIterator<Item = (&'static str, Value)>,
    ) {
        if let Some(span) = self.span.as_mut().filter(|span| span.events.len() < EVENTS_MAX) {
            let attributes = attributes.into_iter();
            let pairs = attributes.map(|(key, value)| KeyValue::new(key, value.0)).collect();
            span.events.events.push(Event::new(name, at, pairs, 0));
        }
    }

    /// Links to a span that caused this one without being its parent.
    pub fn link(&mut self, cause: &Trace) {
        if let Some(span) = self.span.as_mut().filter(|span| span.links.len() < LINKS_MAX) {
            span.links.links.push(Link::with_context(cause.context.clone()));
        }
    }

    /// Marks the span as failed; `class` goes into `error.type`.
    pub fn fail(&mut self, class: &'static str, message: impl Into<Cow<'static, str>>) {
        if let Some(span) = &mut self.span {
            span.attributes.push(KeyValue::new(super::names::ERROR_TYPE, class));
            span.status = Status::error(message);
        }
    }

    /// Ends the span at `end`.
    pub fn end_at(mut self, end: SystemTime) {
        self.hand_over(end);
    }

    fn hand_over(&mut self, end: SystemTime) {
        if let (Some(mut span), Some(held)) = (self.span.take(), self.trace.tracer.held_spans()) {
            span.end_time = end;
            held.on_end(*span);
        }
    }
}

impl Drop for OpenSpan {
    fn drop(&mut self) {
        if self.span.is_some() {
            self.hand_over(SystemTime::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_kept_and_its_ends_are_exact() {
        let ids = RandomIdGenerator::default();
        let ids: Vec<TraceId> = (0..10_000).map(|_| ids.new_trace_id()).collect();
        assert!(!ids.iter().any(|id| is_sampled(0.0, *id)));
        assert!(ids.iter().all(|id| is_sampled(1.0, *id)));
        // Eleven standard deviations to either side.
        let chosen = ids.iter().filter(|id| is_sampled(0.25, **id)).count();
        assert!((2_000..3_000).contains(&chosen), "{chosen} of 10000");
    }
}
