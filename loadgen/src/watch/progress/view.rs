//! The content of a display: rates of the last interval, and totals.

use serde::Serialize;
use traces::units::Nanos;

use crate::send::live::Snapshot;

/// State of a run at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct View {
    /// Seconds since the display started.
    pub(super) elapsed_s: f64,
    /// Requests in the plan.
    pub(super) planned: usize,
    /// Requests per second that the generator handled.
    pub(super) offered_per_s: f64,
    /// Requests per second that were sent.
    pub(super) achieved_per_s: f64,
    /// Tokens per second received.
    pub(super) tokens_per_s: f64,
    /// Requests in flight.
    pub(super) in_flight: u64,
    /// Share of the finished requests that met every SLO.
    pub(super) goodput: Option<f64>,
    /// Counters.
    #[serde(flatten)]
    pub(super) now: Snapshot,
}

impl View {
    /// Creates the state after `elapsed_s`, from two snapshots `interval_s` apart.
    pub(super) fn new(
        elapsed_s: f64,
        interval_s: f64,
        before: &Snapshot,
        now: &Snapshot,
        planned: usize,
    ) -> Self {
        let per_s =
            |before: u64, now: u64| now.saturating_sub(before) as f64 / interval_s.max(1e-6);
        Self {
            elapsed_s,
            planned,
            offered_per_s: per_s(before.issued, now.issued),
            achieved_per_s: per_s(before.sent, now.sent),
            tokens_per_s: per_s(before.tokens, now.tokens),
            in_flight: now.in_flight(),
            goodput: now
                .good
                .filter(|_| now.finished > 0)
                .map(|good| good as f64 / now.finished as f64),
            now: *now,
        }
    }

    /// Returns one line for people.
    pub(super) fn line(&self) -> String {
        let mut text = format!(
            "{:>6.0} s  offered {} ({:.1}/s)  sent {:.1}/s  done {}  in flight {}  errors {}  \
             lag {}  {:.0} tok/s",
            self.elapsed_s,
            self.now.issued,
            self.offered_per_s,
            self.achieved_per_s,
            self.now.finished,
            self.in_flight,
            self.now.failed,
            Nanos(self.now.worst_lag_ns),
            self.tokens_per_s,
        );
        if let Some([p50, _, p99]) = self.now.ttft_us {
            text += &format!("  TTFT {} p99 {}", us(p50), us(p99));
        }
        if let Some(goodput) = self.goodput {
            text += &format!("  good {:.1} %", goodput * 100.0);
        }
        text
    }

    /// Returns one JSON object.
    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).expect("numbers and names are JSON")
    }
}

/// Formats a time for people.
pub(super) fn us(us: u64) -> String {
    Nanos(i64::try_from(us).unwrap_or(i64::MAX / 1000) * 1000).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> View {
        let before = Snapshot { issued: 10, sent: 10, tokens: 100, ..Snapshot::default() };
        let now = Snapshot {
            issued: 30,
            sent: 28,
            finished: 20,
            failed: 1,
            good: Some(15),
            tokens: 600,
            worst_lag_ns: 1_500_000,
            ttft_us: Some([20_000, 30_000, 45_500]),
            ..Snapshot::default()
        };
        View::new(12.0, 5.0, &before, &now, 100)
    }

    #[test]
    fn the_line_gives_rates_of_the_last_interval() {
        assert_eq!(
            view().line(),
            "    12 s  offered 30 (4.0/s)  sent 3.6/s  done 20  in flight 10  errors 1  lag 1.5ms  \
             100 tok/s  TTFT 20ms p99 45.5ms  good 75.0 %"
        );
    }

    #[test]
    fn a_json_line_says_the_same() {
        let line: serde_json::Value = serde_json::from_str(&view().json()).unwrap();
        assert_eq!((&line["offered_per_s"], &line["in_flight"]), (&4.0.into(), &10.into()));
        assert_eq!((&line["good"], &line["goodput"]), (&15.into(), &0.75.into()));
    }
}
