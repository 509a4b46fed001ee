//! What the dispatcher counts.

use chassis::metrics::prometheus_client::metrics::counter::Counter;
use chassis::metrics::{ERROR_RATIO, Registry, TracedHistogram};
use chassis::telemetry::Trace;
use scheduling::journey::Tally;

/// Shared counters; the registry holds the same ones.
pub(crate) struct Counters {
    pub(super) attempts: Counter,
    pub(super) retries: Counter,
    pub(super) fenced_events: Counter,
    pub(super) repeated_events: Counter,
    pub(super) gaps: Counter,
    pub(super) cancels: Counter,
    prediction_error: TracedHistogram,
}

impl Default for Counters {
    fn default() -> Self {
        let counter = Counter::default;
        Self {
            attempts: counter(),
            retries: counter(),
            fenced_events: counter(),
            repeated_events: counter(),
            gaps: counter(),
            cancels: counter(),
            prediction_error: TracedHistogram::new(&ERROR_RATIO),
        }
    }
}

impl Counters {
    pub(crate) fn register(&self, registry: &mut Registry) {
        for (name, help, counter) in [
            ("attempts", "Times a generation was sent to workers", &self.attempts),
            ("retries", "Attempts after the first", &self.retries),
            ("fenced_events", "Events of older attempts or unknown requests", &self.fenced_events),
            ("repeated_events", "Token events that came again", &self.repeated_events),
            ("gaps", "Token gaps that lasted and were asked for", &self.gaps),
            ("cancels", "Cancellations sent to workers", &self.cancels),
        ] {
            registry.register(format!("tandem_gateway_{name}"), help, counter.clone());
        }
        let help = "How far the predicted time to first token was off, as a share of the measured";
        let name = "tandem_gateway_ttft_prediction_error_ratio";
        registry.register(name, help, self.prediction_error.clone());
    }

    /// The first token took `measured_ms` from the sending of its job.
    pub(super) fn predicted(&self, predicted_ms: f64, measured_ms: f64, trace: &Trace) {
        if 0.0 < measured_ms {
            let off = (predicted_ms - measured_ms).abs() / measured_ms;
            self.prediction_error.observe(off, trace);
        }
    }

    pub(super) fn add(&self, tally: Tally) {
        self.fenced_events.inc_by(tally.fenced);
        self.repeated_events.inc_by(tally.repeated);
        self.gaps.inc_by(tally.gaps);
    }
}
