//! Comparison of two runs of one schedule: differences of quantiles with bootstrap intervals.

pub mod gate;

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Beta, Binomial, Distribution as _};
use serde::Serialize;

use crate::report::Report;

/// Number of bootstrap draws.
const DRAWS: usize = 4000;
/// Compared percentiles, with their names.
const PERCENTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)];
/// Compared metrics.
const METRICS: [&str; 3] = ["ttft", "tpot", "e2e"];

/// Reports that cannot be compared.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the message of a variant names its fields")]
pub enum CompareError {
    /// One run is invalid.
    #[error("{which} is INVALID, so that it says nothing of its server: {why}")]
    Invalid { which: &'static str, why: String },
    /// The loads differ.
    #[error(
        "the schedules differ ({a} and {b}): only runs of equal requests at equal times can be \
         compared; use the same seed, rate, lengths and trace, or --schedule with one file"
    )]
    Schedules { a: String, b: String },
    /// A run has no measured request.
    #[error("{0} has no measured request")]
    Empty(&'static str),
}

/// Meaning of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// The second run is better, with 95 % confidence.
    Better,
    /// The second run is worse, with 95 % confidence.
    Worse,
    /// The interval contains zero.
    NoDifference,
    /// The requests are too few for a result.
    TooFew,
}

/// Comparison of one figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// `ttft_p99`, `goodput`, `errors`.
    pub name: String,
    /// Value of the first run.
    pub a: f64,
    /// Value of the second run.
    pub b: f64,
    /// True if less is better.
    pub less_is_better: bool,
    /// Second minus first.
    pub difference: f64,
    /// Lower end of the 95 % interval of the difference.
    pub low: f64,
    /// Upper end of the 95 % interval of the difference.
    pub high: f64,
    /// Meaning of the difference.
    pub finding: Finding,
}

/// Comparison of two runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Run ids.
    pub runs: (String, String),
    /// Measured requests.
    pub requests: (usize, usize),
    /// Seed of the bootstrap.
    pub seed: u64,
    /// All figures.
    pub rows: Vec<Row>,
    /// Warnings for a reader.
    pub warnings: Vec<String>,
}

/// Compares run `b` with run `a`.
pub fn compare(a: &Report, b: &Report, seed: u64) -> Result<Comparison, CompareError> {
    for (which, report) in [("the first report", a), ("the second report", b)] {
        if let Some(reason) = report.verdict.reasons.first() {
            return Err(CompareError::Invalid { which, why: reason.finding.clone() });
        }
        if report.samples.at_ms.is_empty() {
            return Err(CompareError::Empty(which));
        }
    }
    let digest = |report: &Report| report.workload.schedule_digest.clone();
    if digest(a) != digest(b) {
        return Err(CompareError::Schedules { a: digest(a), b: digest(b) });
    }
    let mut draws = Draws(ChaCha12Rng::seed_from_u64(seed));
    let mut rows = Vec::new();
    for metric in METRICS {
        let column = |report: &Report| {
            let values = report.samples.column(metric).unwrap_or_default();
            let mut values: Vec<f64> = values.iter().flatten().copied().collect();
            values.sort_unstable_by(f64::total_cmp);
            values
        };
        let (of_a, of_b) = (column(a), column(b));
        for (name, q) in PERCENTILES {
            rows.extend(draws.quantiles(format!("{metric}_{name}"), q, &of_a, &of_b));
        }
    }
    let failures = |report: &Report| {
        let failed = &report.samples.failed;
        Hits { hits: failed.iter().filter(|failed| **failed).count(), of: failed.len() }
    };
    rows.extend(draws.parts("errors", failures(a), failures(b)));
    if let Some((of_a, of_b)) = a.goodput.as_ref().zip(b.goodput.as_ref())
        && a.slos == b.slos
    {
        let [of_a, of_b] = [of_a, of_b].map(|it| Hits { hits: it.good, of: it.offered });
        rows.extend(draws.parts("goodput", of_a, of_b));
    }
    Ok(Comparison {
        runs: (a.workload.run_id.clone(), b.workload.run_id.clone()),
        requests: (a.samples.failed.len(), b.samples.failed.len()),
        seed,
        rows,
        warnings: warnings(a, b),
    })
}

fn warnings(a: &Report, b: &Report) -> Vec<String> {
    let mut warnings = Vec::new();
    if a.window.from_s != b.window.from_s {
        warnings.push(format!(
            "the windows differ: measured from {:.2} s and from {:.2} s on",
            a.window.from_s, b.window.from_s
        ));
    }
    if a.slos != b.slos {
        warnings.push("the SLOs differ, so that goodput is not compared".to_owned());
    }
    if a.workload.model != b.workload.model {
        warnings.push(format!("the models differ: {} and {}", a.workload.model, b.workload.model));
    }
    warnings
}

/// The requests of a run that have a property.
#[derive(Clone, Copy)]
struct Hits {
    hits: usize,
    of: usize,
}

impl Hits {
    fn share(self) -> f64 {
        self.hits as f64 / self.of.max(1) as f64
    }
}

/// Random numbers of the bootstrap.
struct Draws(ChaCha12Rng);

impl Draws {
    /// Compares a quantile. A Beta variate gives the rank of the k-th sample of a resample, so that
    /// no resample has to be drawn.
    fn quantiles(&mut self, name: String, q: f64, a: &[f64], b: &[f64]) -> Option<Row> {
        let fewest = a.len().min(b.len());
        let rank = |n: usize| ((q * n as f64).ceil() as usize).clamp(1, n.max(1));
        let (of_a, of_b) = (*a.get(rank(a.len()) - 1)?, *b.get(rank(b.len()) - 1)?);
        let beta = |n: usize| Beta::new(rank(n) as f64, (n + 1 - rank(n)) as f64).ok();
        let (beta_a, beta_b) = (beta(a.len())?, beta(b.len())?);
        let pick =
            |of: &[f64], part: f64| of[((part * of.len() as f64) as usize).min(of.len() - 1)];
        let differences: Vec<f64> = (0..DRAWS)
            .map(|_| pick(b, beta_b.sample(&mut self.0)) - pick(a, beta_a.sample(&mut self.0)))
            .collect();
        // With less than one expected sample beyond it, a percentile is just the largest sample.
        let enough = fewest as f64 * (1.0 - q) >= 1.0;
        Some(row(name, of_a, of_b, true, differences, enough))
    }

    /// Compares a share of the requests.
    fn parts(&mut self, name: &str, a: Hits, b: Hits) -> Option<Row> {
        let binomial = |of: Hits| Binomial::new(of.of as u64, of.share()).ok();
        let (of_a, of_b) = (binomial(a)?, binomial(b)?);
        let draw = |of: &Binomial, n: usize, rng: &mut ChaCha12Rng| {
            of.sample(rng) as f64 / n.max(1) as f64
        };
        let differences: Vec<f64> = (0..DRAWS)
            .map(|_| draw(&of_b, b.of, &mut self.0) - draw(&of_a, a.of, &mut self.0))
            .collect();
        let less_is_better = name == "errors";
        let enough = a.of.min(b.of) >= 20;
        Some(row(name.to_owned(), a.share(), b.share(), less_is_better, differences, enough))
    }
}

fn row(
    name: String,
    a: f64,
    b: f64,
    less_is_better: bool,
    mut differences: Vec<f64>,
    enough: bool,
) -> Row {
    differences.sort_unstable_by(f64::total_cmp);
    let at = |part: f64| differences[((DRAWS - 1) as f64 * part).round() as usize];
    let (low, high) = (at(0.025), at(0.975));
    let finding = match (low > 0.0, high < 0.0) {
        _ if !enough => Finding::TooFew,
        (false, false) => Finding::NoDifference,
        (more, _) if more == less_is_better => Finding::Worse,
        _ => Finding::Better,
    };
    Row { name, a, b, less_is_better, difference: b - a, low, high, finding }
}

#[cfg(test)]
mod tests {
    use super::*;
    use traces::random::{RngStream, Stream};

    fn exponential(n: usize, mean: f64, seed: u64) -> Vec<f64> {
        let mut random = Stream::new(seed, RngStream::Arrivals);
        let mut values: Vec<f64> = (0..n).map(|_| mean * random.exponential()).collect();
        values.sort_unstable_by(f64::total_cmp);
        values
    }

    fn finding(a: &[f64], b: &[f64], q: f64, seed: u64) -> Row {
        Draws(ChaCha12Rng::seed_from_u64(seed)).quantiles("x".to_owned(), q, a, b).unwrap()
    }

    #[test]
    fn equal_servers_rarely_differ_and_unlike_ones_do() {
        let mut differing = 0;
        for seed in 0..200 {
            let (a, b) = (exponential(500, 10.0, seed), exponential(500, 10.0, 1000 + seed));
            differing += usize::from(finding(&a, &b, 0.9, seed).finding != Finding::NoDifference);
            let slower = exponential(500, 18.0, 2000 + seed);
            assert_eq!(finding(&a, &slower, 0.5, seed).finding, Finding::Worse, "{seed}");
            assert_eq!(finding(&slower, &a, 0.5, seed).finding, Finding::Better, "{seed}");
        }
        assert!((2..=20).contains(&differing), "{differing} of 200 equal pairs differ");
    }

    #[test]
    fn the_interval_matches_a_bootstrap_by_resampling() {
        let (a, b) = (exponential(300, 10.0, 1), exponential(300, 12.0, 2));
        let quick = finding(&a, &b, 0.9, 3);
        let mut random = Stream::new(9, RngStream::Arrivals);
        let mut resampled = |of: &[f64]| {
            let mut again: Vec<f64> =
                of.iter().map(|_| of[(random.unit() * of.len() as f64) as usize]).collect();
            again.sort_unstable_by(f64::total_cmp);
            again[269]
        };
        let mut differences: Vec<f64> = (0..4000).map(|_| resampled(&b) - resampled(&a)).collect();
        differences.sort_unstable_by(f64::total_cmp);
        let width = quick.high - quick.low;
        assert!(
            (quick.low - differences[100]).abs() < 0.1 * width,
            "{quick:?} {}",
            differences[100]
        );
        assert!((quick.high - differences[3899]).abs() < 0.1 * width, "{quick:?}");
    }

    #[test]
    fn a_percentile_needs_requests_beyond_it() {
        let (a, b) = (exponential(99, 10.0, 1), exponential(99, 90.0, 2));
        assert_eq!(finding(&a, &b, 0.99, 1).finding, Finding::TooFew);
        assert_eq!(finding(&a, &b, 0.9, 1).finding, Finding::Worse);
        assert_eq!(finding(&a, &b, 0.9, 1), finding(&a, &b, 0.9, 1));
    }

    #[test]
    fn parts_are_compared_in_their_own_direction() {
        let mut draws = Draws(ChaCha12Rng::seed_from_u64(1));
        let mut of = |name: &str, a, b| draws.parts(name, a, b).unwrap().finding;
        let hits = |hits, of| Hits { hits, of };
        assert_eq!(of("goodput", hits(900, 1000), hits(990, 1000)), Finding::Better);
        assert_eq!(of("errors", hits(900, 1000), hits(990, 1000)), Finding::Worse);
        assert_eq!(of("errors", hits(0, 1000), hits(0, 1000)), Finding::NoDifference);
        assert_eq!(of("goodput", hits(5, 10), hits(10, 10)), Finding::TooFew);
    }
}
