//! Histograms whose buckets point to traces, and the times of the stages of requests.

use std::fmt::{self, Write as _};
use std::time::Duration;

use opentelemetry::trace::TraceId;
use prometheus_client::encoding::{
    EncodeLabelSet, EncodeLabelValue, EncodeMetric, LabelValueEncoder, MetricEncoder,
};
use prometheus_client::metrics::exemplar::HistogramWithExemplars;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::{MetricType, TypedMetric};

use super::trace::Trace;
use crate::metrics::{Registry, STAGE_SECONDS};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TraceLabel {
    trace_id: WrittenLate,
}

/// A trace id that becomes text only when the metrics are read: there is one for every observed
/// value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct WrittenLate(TraceId);

impl EncodeLabelValue for WrittenLate {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        write!(encoder, "{}", self.0)
    }
}

/// A histogram whose buckets point to a trace that fell into them; cheap to clone.
#[derive(Debug, Clone)]
pub struct TracedHistogram {
    inner: HistogramWithExemplars<TraceLabel>,
}

impl TracedHistogram {
    /// Returns a histogram with these upper bounds.
    pub fn new(bounds: &[f64]) -> Self {
        Self { inner: HistogramWithExemplars::new(bounds.iter().copied()) }
    }

    /// Observes a value; the trace becomes the bucket's exemplar if people can look it up.
    pub fn observe(&self, value: f64, trace: &Trace) {
        let recorded = trace.is_kept();
        let label = recorded.then(|| TraceLabel { trace_id: WrittenLate(trace.trace_id()) });
        let now = recorded.then(std::time::SystemTime::now);
        self.inner.observe(value, label, now);
    }

    /// Observes a duration in seconds; see [`observe`](Self::observe).
    pub fn observe_duration(&self, duration: Duration, trace: &Trace) {
        self.observe(duration.as_secs_f64(), trace);
    }
}

impl EncodeMetric for TracedHistogram {
    fn encode(&self, encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        self.inner.encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        self.inner.metric_type()
    }
}

impl TypedMetric for TracedHistogram {
    const TYPE: MetricType = MetricType::Histogram;
}

type Label = (&'static str, &'static str);

/// The times of the stages of requests, by the stage's name; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct StageTimes {
    family: Family<[Label; 1], TracedHistogram, fn() -> TracedHistogram>,
}

impl StageTimes {
    /// Adds the times to `registry`.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let family =
            Family::new_with_constructor((|| TracedHistogram::new(&STAGE_SECONDS)) as fn() -> _);
        let help = "Time that requests spent in each stage, recorded by the service in which the stage ended";
        registry.register("tandem_stage_seconds", help, family.clone());
        Self { family }
    }

    /// Observes the time of a stage.
    pub(super) fn observe(&self, stage: &'static str, duration: Duration, trace: &Trace) {
        let histogram = self.family.get_or_create_owned(&[("stage", stage)]);
        histogram.observe_duration(duration, trace);
    }
}
