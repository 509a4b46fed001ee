//! What the dispatcher counts.

use chassis::metrics::Registry;
use chassis::metrics::prometheus_client::metrics::counter::Counter;
use scheduling::journey::Tally;

/// Shared counters; the registry holds the same ones.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) attempts: Counter,
    pub(super) retries: Counter,
    pub(super) fenced_events: Counter,
    pub(super) repeated_events: Counter,
    pub(super) gaps: Counter,
    pub(super) cancels: Counter,
}

impl Counters {
    pub(super) fn register(&self, registry: &mut Registry) {
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
    }

    pub(super) fn add(&self, tally: Tally) {
        self.fenced_events.inc_by(tally.fenced);
        self.repeated_events.inc_by(tally.repeated);
        self.gaps.inc_by(tally.gaps);
    }
}
