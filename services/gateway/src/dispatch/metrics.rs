//! The dispatcher's metrics.

use chassis::metrics::{ERROR_RATIO, Registry};
use chassis::telemetry::Trace;
use chassis::telemetry::TracedHistogram;
use prometheus_client::metrics::counter::Counter;
use scheduling::journey::Tally;

/// The counters that dispatcher and registry share.
pub(crate) struct Counters {
    pub(super) attempts: Counter,
    pub(super) retries: Counter,
    pub(super) stale_attempt_events: Counter,
    pub(super) repeated_events: Counter,
    pub(super) gaps: Counter,
    pub(super) cancels: Counter,
    pub(super) first_token: PredictionError,
    pub(super) generation: PredictionError,
}

/// The errors of predictions, as shares of the actual times.
pub(super) struct PredictionError(TracedHistogram);

impl Default for PredictionError {
    fn default() -> Self {
        Self(TracedHistogram::new(&ERROR_RATIO))
    }
}

impl PredictionError {
    /// Records the error of one prediction.
    pub(super) fn record(&self, predicted_ms: f64, actual_ms: f64, trace: &Trace) {
        if actual_ms > 0.0 {
            self.0.observe((predicted_ms - actual_ms).abs() / actual_ms, trace);
        }
    }
}

impl Default for Counters {
    fn default() -> Self {
        let counter = Counter::default;
        Self {
            attempts: counter(),
            retries: counter(),
            stale_attempt_events: counter(),
            repeated_events: counter(),
            gaps: counter(),
            cancels: counter(),
            first_token: PredictionError::default(),
            generation: PredictionError::default(),
        }
    }
}

impl Counters {
    pub(crate) fn register(&self, registry: &mut Registry) {
        for (name, help, counter) in [
            (
                "attempts",
                "Attempts sent to workers, the first of each generation included",
                &self.attempts,
            ),
            ("retries", "Attempts after the first of a generation", &self.retries),
            (
                "stale_attempt_events",
                "Worker events of stale attempts or unknown requests, which are ignored",
                &self.stale_attempt_events,
            ),
            ("repeated_events", "Token events that arrived more than once", &self.repeated_events),
            (
                "gaps",
                "Gaps in a token stream after which missing tokens were requested again",
                &self.gaps,
            ),
            ("cancels", "Cancellations that this gateway sent to workers", &self.cancels),
        ] {
            registry.register(format!("tandem_gateway_{name}"), help, counter.clone());
        }
        for (name, what, error) in [
            ("ttft", "to first token", &self.first_token),
            ("generation", "from the first token to the last", &self.generation),
        ] {
            let help = format!("Error of the predicted time {what}, as a share of the actual time");
            let name = format!("tandem_gateway_{name}_prediction_error_ratio");
            registry.register(name, help, error.0.clone());
        }
    }

    pub(super) fn add(&self, tally: Tally) {
        self.stale_attempt_events.inc_by(tally.fenced);
        self.repeated_events.inc_by(tally.repeated);
        self.gaps.inc_by(tally.gaps);
    }
}
