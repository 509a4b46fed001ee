//! Several runs together: their histograms are added, so that percentiles are those of all
//! requests, not means of percentiles.

use hdrhistogram::Histogram;
use traces::quantile::P999_SAMPLES;
use traces::text::table;

use crate::report::Report;

/// Largest value of a histogram, in microseconds.
const LONGEST_US: u64 = 24 * 3600 * 1_000_000;
/// Significant digits: the error of a percentile is at most 0.1 %.
const DIGITS: u8 = 3;
/// Merged metrics.
const METRICS: [&str; 3] = ["ttft", "tpot", "e2e"];

/// Runs that cannot be merged.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message of a variant names its fields")]
pub enum MergeError {
    /// One run is invalid.
    #[error("run {run} is INVALID, so that it says nothing of its server: {why}")]
    Invalid { run: String, why: String },
    /// A histogram could not be made.
    #[error("cannot make a histogram: {0}")]
    Histogram(String),
}

/// Renders the percentiles of each of `reports` and of all their requests, as a table for people.
pub fn render(reports: &[Report]) -> Result<String, MergeError> {
    for report in reports {
        if let Some(reason) = report.verdict.reasons.first() {
            let run = report.workload.run_id.clone();
            return Err(MergeError::Invalid { run, why: reason.finding.clone() });
        }
    }
    let mut table = table(vec!["ms", "run", "n", "p50", "p90", "p99", "p99.9", "max"], 2);
    for metric in METRICS {
        let mut all = empty()?;
        for report in reports {
            let one = histogram(report, metric)?;
            all.add(&one).map_err(|e| MergeError::Histogram(e.to_string()))?;
            table.add_row(row(metric, &report.workload.run_id, &one));
        }
        table.add_row(row(metric, &format!("all {}", reports.len()), &all));
    }
    Ok(format!("{table}\n"))
}

fn empty() -> Result<Histogram<u64>, MergeError> {
    Histogram::new_with_bounds(1, LONGEST_US, DIGITS)
        .map_err(|e| MergeError::Histogram(e.to_string()))
}

fn histogram(report: &Report, metric: &str) -> Result<Histogram<u64>, MergeError> {
    let mut histogram = empty()?;
    for value in report.samples.column(metric).unwrap_or_default().iter().flatten() {
        histogram.saturating_record((value * 1e3).round().max(1.0) as u64);
    }
    Ok(histogram)
}

fn row(metric: &str, run: &str, of: &Histogram<u64>) -> Vec<String> {
    let at = |q: f64| {
        if of.is_empty() {
            "–".to_owned()
        } else {
            format!("{:.2}", of.value_at_quantile(q) as f64 / 1e3)
        }
    };
    let rare = of.len() >= P999_SAMPLES as u64;
    let p999 = if rare { at(0.999) } else { "–".to_owned() };
    let head = [metric.to_owned(), run.to_owned(), of.len().to_string()];
    head.into_iter().chain([at(0.5), at(0.9), at(0.99), p999, at(1.0)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::measured::tests::{outcome, plan, report};

    #[test]
    fn percentiles_of_all_requests_are_not_means_of_percentiles() {
        let plan = plan(100);
        let (fast, slow) = (outcome(100, |_| 0), outcome(100, |_| 450));
        let reports = [report(&plan, &fast), report(&plan, &slow), report(&plan, &fast)];
        let text = render(&reports).unwrap();
        // Two thirds took 50 ms and one third 500 ms, so the median is 50 ms.
        let all = text.lines().find(|l| l.contains("ttft") && l.contains("all 3")).unwrap();
        let cells: Vec<&str> = all.split_whitespace().collect();
        let n = cells.iter().position(|cell| *cell == "300").unwrap();
        let ms = |place: usize| cells[n + place].parse::<f64>().unwrap();
        assert!((ms(1) - 50.0).abs() < 0.1 && (ms(2) - 500.0).abs() < 1.0, "{all}");
    }

    #[test]
    fn an_invalid_run_is_refused() {
        let (plan, run) = (plan(10), outcome(10, |_| 0));
        let mut bad = report(&plan, &run);
        bad.verdict.reasons.push(crate::report::verdict::Reason {
            finding: "late".to_owned(),
            advice: "hurry".to_owned(),
        });
        assert!(render(&[bad]).unwrap_err().to_string().contains("INVALID"));
    }
}
