//! The server's own gauges in the report.

use serde::{Deserialize, Serialize};

use crate::measure::windows::WindowReport;
use crate::watch::server::{ServerMetrics, ServerSample};

/// Mean and largest value of a gauge within the measured window.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GaugeSummary {
    /// Mean of the scrapes.
    pub mean: f64,
    /// Largest value.
    pub max: f64,
}

/// Gauges of the server during the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerReport {
    /// Scrapes of the whole run.
    pub metrics: ServerMetrics,
    /// Scrapes within the measured window.
    pub in_window: usize,
    /// Requests that were computed.
    pub running: Option<GaugeSummary>,
    /// Requests that waited.
    pub waiting: Option<GaugeSummary>,
    /// Share of the KV memory in use.
    pub kv_used: Option<GaugeSummary>,
}

impl ServerReport {
    /// Sums up the scrapes within the measured window of a run.
    pub fn of(metrics: ServerMetrics, window: &WindowReport) -> Self {
        let measured = window.from_s..=window.to_s;
        let inside: Vec<ServerSample> =
            metrics.samples.iter().filter(|it| measured.contains(&it.at_s)).copied().collect();
        Self {
            in_window: inside.len(),
            running: summary(inside.iter().filter_map(|sample| sample.running)),
            waiting: summary(inside.iter().filter_map(|sample| sample.waiting)),
            kv_used: summary(inside.iter().filter_map(|sample| sample.kv_used)),
            metrics,
        }
    }

    /// Describes the gauges for people.
    pub fn words(&self) -> String {
        if let Some(problem) = &self.metrics.problem {
            return format!("not recorded: {problem}");
        }
        let parts = [
            self.running.map(|it| format!("running mean {:.1} max {:.0}", it.mean, it.max)),
            self.waiting.map(|it| format!("queued mean {:.1} max {:.0}", it.mean, it.max)),
            self.kv_used.map(|it| {
                format!("KV memory mean {:.1} % max {:.1} %", 100.0 * it.mean, 100.0 * it.max)
            }),
        ];
        let known: Vec<String> = parts.into_iter().flatten().collect();
        let failed = match self.metrics.failed {
            0 => String::new(),
            failed => format!(", {failed} more failed"),
        };
        let known = if known.is_empty() { "nothing".to_owned() } else { known.join(" · ") };
        format!("{known} ({} scrapes of {}{failed})", self.in_window, self.metrics.url)
    }
}

fn summary(values: impl Iterator<Item = f64>) -> Option<GaugeSummary> {
    let (mut count, mut sum, mut max) = (0_u32, 0.0, f64::NEG_INFINITY);
    for value in values {
        count += 1;
        sum += value;
        max = value.max(max);
    }
    (count > 0).then(|| GaugeSummary { mean: sum / f64::from(count), max })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_is_summed_up() {
        let summed = summary([1.0, 4.0, 1.0].into_iter()).unwrap();
        assert_eq!(summed, GaugeSummary { mean: 2.0, max: 4.0 });
        assert_eq!(summary(std::iter::empty()), None);
    }
}
