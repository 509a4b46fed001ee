//! Trace contexts that travel with a request, and the spans recorded under them.

use std::borrow::Cow;
use std::ops::Range;
use std::time::SystemTime;

use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt as _, TraceFlags,
    TraceId, TraceState, Tracer as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{IdGenerator as _, RandomIdGenerator, SdkTracer, Span};

use super::{Value, context};
use crate::metrics::{Registry, StageTimes};

/// Makes spans for one service; cheap to clone.
#[derive(Debug, Clone)]
pub struct Tracer {
    exporting: Option<SdkTracer>,
    stage_times: Option<StageTimes>,
}

impl Tracer {
    /// A tracer that makes and hands on ids but records nothing.
    pub fn off() -> Self {
        Self { exporting: None, stage_times: None }
    }

    pub(super) fn exporting(tracer: SdkTracer) -> Self {
        Self { exporting: Some(tracer), stage_times: None }
    }

    /// The same tracer, which also times every stage, recorded or not, in `registry`.
    pub fn timing_stages(mut self, registry: &mut Registry) -> Self {
        self.stage_times = Some(StageTimes::register(registry));
        self
    }

    /// Opens the span of an incoming request: the root of a new trace, or the child of the
    /// caller's span if its `traceparent` is valid.
    ///
    /// Whether a new trace is recorded is decided here, once; a caller's decision is kept.
    pub fn root_span(
        &self,
        name: impl Into<Cow<'static, str>>,
        kind: SpanKind,
        (traceparent, tracestate): (Option<&str>, Option<&str>),
        start: SystemTime,
    ) -> OpenSpan {
        let caller = traceparent.and_then(|text| context::parse(text, tracestate));
        self.open(name.into(), kind, caller, start)
    }

    /// Goes on with the trace of a message.
    ///
    /// Without a valid `traceparent` the result has a trace id for the logs and records nothing:
    /// spans without their request's root would only be orphans.
    pub fn continue_from(&self, traceparent: Option<&str>) -> Trace {
        let caller = traceparent.and_then(|text| context::parse(text, None));
        Trace { tracer: self.clone(), context: caller.unwrap_or_else(unrecorded) }
    }

    fn open(
        &self,
        name: Cow<'static, str>,
        kind: SpanKind,
        parent: Option<SpanContext>,
        start: SystemTime,
    ) -> OpenSpan {
        let Some(tracer) = &self.exporting else {
            // Who records nothing must not put itself between its caller and its callees.
            let context = parent.unwrap_or_else(unrecorded);
            return OpenSpan { span: None, trace: Trace { tracer: self.clone(), context } };
        };
        let under = match parent {
            Some(parent) => Context::new().with_remote_span_context(parent),
            None => Context::new(),
        };
        let builder = SpanBuilder::from_name(name).with_kind(kind).with_start_time(start);
        let span = tracer.build_with_context(builder, &under);
        let context = span.span_context().clone();
        OpenSpan { span: Some(span), trace: Trace { tracer: self.clone(), context } }
    }
}

fn unrecorded() -> SpanContext {
    let ids = RandomIdGenerator::default();
    let (trace_id, span_id) = (ids.new_trace_id(), ids.new_span_id());
    SpanContext::new(trace_id, span_id, TraceFlags::default(), false, TraceState::NONE)
}

/// The place in a trace under which further spans go; travels with the request.
#[derive(Debug, Clone)]
pub struct Trace {
    tracer: Tracer,
    context: SpanContext,
}

impl Trace {
    /// A trace that records nothing, for tests and for work that belongs to no request.
    pub fn off() -> Self {
        Tracer::off().continue_from(None)
    }

    /// The trace's id, for logs and exemplars.
    pub fn trace_id(&self) -> TraceId {
        self.context.trace_id()
    }

    /// Whether this trace is recorded.
    pub fn is_sampled(&self) -> bool {
        self.context.is_sampled()
    }

    /// The W3C `traceparent` for messages sent on behalf of this span.
    pub fn traceparent(&self) -> String {
        context::format(&self.context)
    }

    /// The W3C `tracestate`; `None` when there is none, and then no header should be sent.
    pub fn tracestate(&self) -> Option<String> {
        Some(self.context.trace_state().header()).filter(|text| !text.is_empty())
    }

    /// Records a stage of the work that took place in this process, as a finished child span, and
    /// how long it took.
    pub fn stage(
        &self,
        name: &'static str,
        span: Range<SystemTime>,
        attributes: impl IntoIterator<Item = (&'static str, Value)>,
    ) {
        if let Some(times) = &self.tracer.stage_times {
            let took = span.end.duration_since(span.start).unwrap_or_default();
            times.observe(name, took, self);
        }
        if !self.is_sampled() {
            return;
        }
        let mut open = self.open(name, SpanKind::Internal, span.start);
        for (key, value) in attributes {
            open.attribute(key, value);
        }
        open.end_at(span.end);
    }

    /// Opens a child span, to be given attributes, events and an end later.
    pub fn open(
        &self,
        name: impl Into<Cow<'static, str>>,
        kind: SpanKind,
        start: SystemTime,
    ) -> OpenSpan {
        self.tracer.open(name.into(), kind, Some(self.context.clone()), start)
    }
}

/// A span that has begun; ends when told, or when dropped.
#[derive(Debug)]
pub struct OpenSpan {
    span: Option<Span>,
    trace: Trace,
}

impl OpenSpan {
    /// The place under this span, for its children.
    pub fn context(&self) -> Trace {
        self.trace.clone()
    }

    /// Sets an attribute.
    pub fn attribute(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(span) = &mut self.span {
            span.set_attribute(KeyValue::new(key, value.into().0));
        }
    }

    /// Records that something happened at `at`.
    pub fn event(
        &mut self,
        name: &'static str,
        at: SystemTime,
        attributes: impl IntoIterator<Item = (&'static str, Value)>,
    ) {
        if let Some(span) = &mut self.span {
            let attributes = attributes.into_iter();
            let pairs = attributes.map(|(key, value)| KeyValue::new(key, value.0)).collect();
            span.add_event_with_timestamp(name, at, pairs);
        }
    }

    /// Links to a span that caused this one without being its parent.
    pub fn link(&mut self, cause: &Trace) {
        if let Some(span) = &mut self.span {
            span.add_link(cause.context.clone(), Vec::new());
        }
    }

    /// Marks the span as failed; `class` goes into `error.type`.
    pub fn fail(&mut self, class: &'static str, message: impl Into<Cow<'static, str>>) {
        if let Some(span) = &mut self.span {
            span.set_attribute(KeyValue::new(super::names::ERROR_TYPE, class));
            span.set_status(Status::error(message));
        }
    }

    /// Ends the span at `end`.
    pub fn end_at(mut self, end: SystemTime) {
        if let Some(span) = &mut self.span {
            span.end_with_timestamp(end);
        }
    }
}
