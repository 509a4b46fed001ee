//! Held spans: unsampled spans that wait for their trace verdict, and are then exported or forgotten.
//!
//! **Invariant**: at most [`HELD_SPANS_MAX`] spans are held. A full buffer evicts its oldest trace,
//! and counts that.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use opentelemetry::trace::{SpanContext, TraceFlags, TraceId};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanData, SpanExporter, SpanProcessor as _};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use protocol::TraceVerdicts;

/// The spans that this process holds for undecided requests.
const HELD_SPANS_MAX: usize = 16_384;
/// The length of the order, which also names traces that are decided already.
const ORDER_MAX: usize = 2 * HELD_SPANS_MAX;
/// The verdicts that are remembered for spans that end after their request.
const VERDICTS_MAX: usize = 8_192;
/// The verdicts that wait to be reported to other services.
const UNREPORTED_MAX: usize = 16_384;

#[derive(Debug, Default)]
struct Buffer {
    traces: HashMap<TraceId, Vec<SpanData>>,
    /// Traces in order of their first span; some may be decided already.
    order: VecDeque<TraceId>,
    spans: usize,
    verdicts: HashMap<TraceId, bool>,
    decided: VecDeque<TraceId>,
    unreported: TraceVerdicts,
}

/// Counters of what happens to spans.
#[derive(Debug, Default, Clone)]
pub(super) struct SpanCounts {
    ended: Counter,
    exported: Counter,
    export_failed: Counter,
    kept: Counter,
    forgotten: Counter,
    evicted: Counter,
}

impl SpanCounts {
    /// Adds the counters to `registry`.
    pub(super) fn register(&self, registry: &mut Registry) {
        for (name, help, counter) in [
            (
                "ended",
                "Spans queued for export (exported, failed, pending or dropped)",
                &self.ended,
            ),
            ("exported", "Spans that the collector accepted", &self.exported),
            ("export_failed", "Spans that the collector did not accept", &self.export_failed),
            (
                "kept",
                "Held spans exported because their request failed, lost an attempt or missed its SLO",
                &self.kept,
            ),
            ("forgotten", "Held spans dropped because their request met its SLO", &self.forgotten),
            ("evicted", "Held spans evicted because the buffer was full", &self.evicted),
        ] {
            registry.register(format!("tandem_trace_spans_{name}"), help, counter.clone());
        }
    }
}

/// The buffer of held spans in front of the exporter; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct HeldSpans {
    held: Arc<Mutex<Buffer>>,
    next: Arc<BatchSpanProcessor>,
    counts: SpanCounts,
}

impl HeldSpans {
    pub(super) fn new(next: BatchSpanProcessor, counts: ExportCounts) -> Self {
        let counts = SpanCounts {
            exported: counts.exported,
            export_failed: counts.failed,
            ..SpanCounts::default()
        };
        Self { held: Arc::default(), next: Arc::new(next), counts }
    }

    fn held(&self) -> MutexGuard<'_, Buffer> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        self.counts.register(registry);
    }

    /// Returns the verdict about a trace, if there is one.
    pub(super) fn verdict(&self, trace: TraceId) -> Option<bool> {
        self.held().verdicts.get(&trace).copied()
    }

    /// Decides about a trace, for this process and to be reported to others. The first verdict counts.
    pub(super) fn decide(&self, trace: TraceId, keep: bool) {
        let mut held = self.held();
        if held.verdicts.contains_key(&trace) {
            return;
        }
        let list = if keep { &mut held.unreported.keep } else { &mut held.unreported.forget };
        if list.len() < UNREPORTED_MAX {
            list.push(trace.to_bytes());
        }
        self.carry_out(&mut held, trace, keep);
    }

    /// Takes the verdicts since the last call.
    pub(super) fn take_unreported(&self) -> TraceVerdicts {
        std::mem::take(&mut self.held().unreported)
    }

    /// Carries out the verdicts of another service.
    pub(super) fn apply(&self, verdicts: &TraceVerdicts) {
        let mut held = self.held();
        for (ids, keep) in [(&verdicts.keep, true), (&verdicts.forget, false)] {
            for id in ids {
                let trace = TraceId::from_bytes(*id);
                if !held.verdicts.contains_key(&trace) {
                    self.carry_out(&mut held, trace, keep);
                }
            }
        }
    }

    fn carry_out(&self, held: &mut Buffer, trace: TraceId, keep: bool) {
        held.verdicts.insert(trace, keep);
        held.decided.push_back(trace);
        if held.decided.len() > VERDICTS_MAX
            && let Some(oldest) = held.decided.pop_front()
        {
            held.verdicts.remove(&oldest);
        }
        let spans = held.traces.remove(&trace).unwrap_or_default();
        held.spans -= spans.len();
        for span in spans {
            self.settle(span, keep);
        }
    }

    fn settle(&self, span: SpanData, keep: bool) {
        if keep {
            self.counts.kept.inc();
            self.counts.ended.inc();
            self.next.on_end(chosen(span));
        } else {
            self.counts.forgotten.inc();
        }
    }

    fn hold(&self, span: SpanData) {
        let trace = span.span_context.trace_id();
        let mut held = self.held();
        if let Some(keep) = held.verdicts.get(&trace).copied() {
            drop(held);
            return self.settle(span, keep);
        }
        if !held.traces.contains_key(&trace) {
            held.order.push_back(trace);
        }
        held.traces.entry(trace).or_default().push(span);
        held.spans += 1;
        let Buffer { traces, order, .. } = &mut *held;
        if order.len() > ORDER_MAX {
            order.retain(|trace| traces.contains_key(trace));
        }
        while held.spans > HELD_SPANS_MAX {
            let Some(oldest) = held.order.pop_front() else { break };
            let evicted = held.traces.remove(&oldest).map_or(0, |spans| spans.len());
            held.spans -= evicted;
            self.counts.evicted.inc_by(evicted as u64);
        }
    }
}

/// Returns the same span as a sampled one.
fn chosen(mut span: SpanData) -> SpanData {
    let context = &span.span_context;
    span.span_context = SpanContext::new(
        context.trace_id(),
        context.span_id(),
        context.trace_flags() | TraceFlags::SAMPLED,
        context.is_remote(),
        context.trace_state().clone(),
    );
    span
}

impl HeldSpans {
    /// Exports a span that has ended, or holds it until its trace verdict.
    pub(super) fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() {
            self.counts.ended.inc();
            self.next.on_end(span);
        } else {
            self.hold(span);
        }
    }

    /// Exports the spans that wait, and ends. Blocks.
    pub(super) fn shutdown(&self, timeout: Duration) -> OTelSdkResult {
        self.next.shutdown_with_timeout(timeout)
    }
}

/// Counters of the spans that the collector accepted, and of those that it did not.
#[derive(Debug, Clone, Default)]
pub(super) struct ExportCounts {
    exported: Counter,
    failed: Counter,
}

/// An exporter that counts its spans.
#[derive(Debug)]
pub(super) struct Counted<E> {
    exporter: E,
    counts: ExportCounts,
}

impl<E: SpanExporter> Counted<E> {
    pub(super) fn new(exporter: E) -> (Self, ExportCounts) {
        let counts = ExportCounts::default();
        (Self { exporter, counts: counts.clone() }, counts)
    }
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len() as u64;
        let exported = self.exporter.export(batch).await;
        match &exported {
            Ok(()) => self.counts.exported.inc_by(spans),
            Err(_) => self.counts.failed.inc_by(spans),
        };
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::InstrumentationScope;
    use opentelemetry::trace::{SpanId, SpanKind, Status, TraceState};
    use opentelemetry_sdk::trace::{SpanEvents, SpanLinks};

    use super::*;

    fn span(trace: u128, id: u64) -> SpanData {
        let now = std::time::SystemTime::UNIX_EPOCH;
        SpanData {
            span_context: SpanContext::new(
                TraceId::from(trace),
                SpanId::from(id),
                TraceFlags::default(),
                false,
                TraceState::NONE,
            ),
            parent_span_id: SpanId::INVALID,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: "stage".into(),
            start_time: now,
            end_time: now,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: InstrumentationScope::default(),
        }
    }

    /// An exporter that keeps its spans in memory.
    #[derive(Clone, Debug, Default)]
    struct Memory(Arc<Mutex<Vec<SpanData>>>);

    impl SpanExporter for Memory {
        async fn export(&self, mut batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().unwrap().append(&mut batch);
            Ok(())
        }
    }

    fn held_spans() -> (HeldSpans, Memory) {
        let memory = Memory::default();
        let (exporter, counts) = Counted::new(memory.clone());
        (HeldSpans::new(BatchSpanProcessor::builder(exporter).build(), counts), memory)
    }

    fn exported(spans: &HeldSpans, memory: &Memory) -> Vec<u64> {
        spans.next.force_flush().unwrap();
        let spans = memory.0.lock().unwrap().clone();
        assert!(spans.iter().all(|span| span.span_context.is_sampled()));
        let ids = spans.iter().map(|span| span.span_context.span_id().to_bytes());
        ids.map(u64::from_be_bytes).collect()
    }

    #[test]
    fn kept_traces_leave_whole_and_forgotten_ones_never() {
        let (spans, memory) = held_spans();
        for (trace, id) in [(1, 10), (2, 20), (1, 11)] {
            spans.on_end(span(trace, id));
        }
        spans.decide(TraceId::from(1u128), true);
        spans.decide(TraceId::from(2u128), false);
        spans.decide(TraceId::from(2u128), true);
        // Spans that end after their request follow it.
        spans.on_end(span(1, 12));
        spans.on_end(span(2, 21));
        assert_eq!(exported(&spans, &memory), [10, 11, 12]);
        let reported = spans.take_unreported();
        assert_eq!((reported.keep.len(), reported.forget.len()), (1, 1));
        assert!(spans.take_unreported().is_empty());
        assert_eq!((spans.counts.kept.get(), spans.counts.forgotten.get()), (3, 2));
        assert_eq!((spans.counts.ended.get(), spans.counts.exported.get()), (3, 3));
    }

    #[test]
    fn verdicts_of_others_are_carried_out_and_not_reported_again() {
        let (spans, memory) = held_spans();
        spans.on_end(span(7, 1));
        spans.apply(&TraceVerdicts { keep: vec![7u128.to_be_bytes()], forget: Vec::new() });
        assert_eq!(exported(&spans, &memory), [1]);
        assert!(spans.take_unreported().is_empty());
        assert_eq!(spans.verdict(TraceId::from(7u128)), Some(true));
    }

    #[test]
    fn a_long_request_outlasts_many_short_ones() {
        let (spans, memory) = held_spans();
        spans.on_end(span(1, 1));
        for id in 0..3 * ORDER_MAX as u64 {
            let trace = 2 + u128::from(id);
            spans.on_end(span(trace, 2));
            spans.decide(TraceId::from(trace), false);
        }
        assert!(spans.held().order.len() <= ORDER_MAX);
        spans.decide(TraceId::from(1u128), true);
        assert_eq!(exported(&spans, &memory), [1]);
        assert_eq!(spans.counts.evicted.get(), 0);
    }

    #[test]
    fn a_full_buffer_evicts_the_oldest_trace() {
        let (spans, memory) = held_spans();
        spans.on_end(span(1, 1));
        for id in 0..HELD_SPANS_MAX as u64 {
            spans.on_end(span(2 + u128::from(id), id));
        }
        assert_eq!(spans.counts.evicted.get(), 1);
        spans.decide(TraceId::from(1u128), true);
        assert_eq!(exported(&spans, &memory), [] as [u64; 0]);
        assert_eq!(spans.held().spans, HELD_SPANS_MAX);
    }
}
