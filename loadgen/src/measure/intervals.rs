//! Quantiles with their confidence intervals.

use serde::{Deserialize, Serialize};
use traces::quantile::{Quantiles, quantile};

/// Ends of a 95 % interval. An end is missing if the samples are too few for it.
pub type Interval = [Option<f64>; 2];

/// Probability left out on each side of an interval.
const TAIL: f64 = 0.025;

/// Count, mean, quantiles and their intervals of a set of samples.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// Count, mean and quantiles.
    #[serde(flatten)]
    pub quantiles: Quantiles,
    /// 95th percentile.
    pub p95: Option<f64>,
    /// Interval of the median.
    pub p50_ci: Interval,
    /// Interval of the 90th percentile.
    pub p90_ci: Interval,
    /// Interval of the 95th percentile.
    pub p95_ci: Interval,
    /// Interval of the 99th percentile.
    pub p99_ci: Interval,
    /// Interval of the 99.9th percentile.
    pub p999_ci: Interval,
}

impl Distribution {
    /// Computes the quantiles of `samples`, in their unit.
    pub fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_unstable_by(f64::total_cmp);
        let quantiles = Quantiles::of_sorted(&samples);
        let p999_ci = match quantiles.p999 {
            Some(_) => interval(&samples, 0.999),
            None => [None, None],
        };
        Self {
            quantiles,
            p95: quantile(&samples, 0.95),
            p50_ci: interval(&samples, 0.5),
            p90_ci: interval(&samples, 0.9),
            p95_ci: interval(&samples, 0.95),
            p99_ci: interval(&samples, 0.99),
            p999_ci,
        }
    }

    /// Returns the quantile called `name`, such as `p99`, with its interval; `None` for other
    /// names.
    pub fn named(&self, name: &str) -> Option<(Option<f64>, Interval)> {
        Some(match name {
            "p50" => (self.quantiles.p50, self.p50_ci),
            "p90" => (self.quantiles.p90, self.p90_ci),
            "p95" => (self.p95, self.p95_ci),
            "p99" => (self.quantiles.p99, self.p99_ci),
            "p999" => (self.quantiles.p999, self.p999_ci),
            _ => return None,
        })
    }
}

/// Returns the 95 % interval of the `q` quantile of ascending samples, from order statistics. It
/// assumes independent samples of any distribution.
pub fn interval(sorted: &[f64], q: f64) -> Interval {
    let (low, high) = ranks(sorted.len(), q);
    let Some(value) = quantile(sorted, q) else { return [None, None] };
    let at = |rank: Option<usize>| rank.and_then(|rank| sorted.get(rank).copied());
    // With a handful of samples the interpolated quantile may lie outside.
    [at(low).map(|low| low.min(value)), at(high).map(|high| high.max(value))]
}

/// Returns the indices in `n` ascending samples between which the `q` quantile lies with 95 %
/// confidence.
fn ranks(n: usize, q: f64) -> (Option<usize>, Option<usize>) {
    if n == 0 || !(q > 0.0 && q < 1.0) {
        return (None, None);
    }
    // The number of samples below the quantile is binomial. Its probabilities are summed from far
    // below the mode, where they vanish.
    let mode = (((n + 1) as f64 * q) as usize).min(n);
    let (mut k, mut p) = (mode, binomial(n, mode, q));
    let negligible = p * 1e-18;
    while k > 0 && p > negligible {
        p *= k as f64 / (n - k + 1) as f64 * (1.0 - q) / q;
        k -= 1;
    }
    let (mut low, mut below) = (None, 0.0);
    while k < n {
        below += p;
        // Now `below` is the probability of at most `k` samples below the quantile.
        if below <= TAIL {
            low = Some(k);
        }
        if 1.0 - below <= TAIL {
            return (low, Some(k));
        }
        p *= (n - k) as f64 / (k + 1) as f64 * q / (1.0 - q);
        k += 1;
    }
    (low, None)
}

/// Returns the probability of `k` hits in `n` trials.
fn binomial(n: usize, k: usize, q: f64) -> f64 {
    let choose = ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k);
    (choose + k as f64 * q.ln() + (n - k) as f64 * (1.0 - q).ln()).exp()
}

fn ln_factorial(n: usize) -> f64 {
    if n < 16 {
        return (2..=n).map(|i| (i as f64).ln()).sum();
    }
    // Stirling's series; its next term is below 1e-9 here.
    let x = n as f64;
    x * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI * x).ln() + 1.0 / (12.0 * x)
        - 1.0 / (360.0 * x.powi(3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use traces::random::{RngStream, Stream};

    #[test]
    fn ranks_match_published_tables() {
        // Conover, Practical Nonparametric Statistics, table A3: the median of 10 lies between the
        // 2nd and the 9th (97.9 %), of 20 between the 6th and the 15th (95.9 %).
        assert_eq!(ranks(10, 0.5), (Some(1), Some(8)));
        assert_eq!(ranks(20, 0.5), (Some(5), Some(14)));
        // 100 samples cannot bound their 99th percentile from above: 0.99^100 = 0.37.
        let (low, high) = ranks(100, 0.99);
        assert!(low.is_some() && high.is_none(), "{low:?} {high:?}");
        // 368 samples are the fewest that can: 0.99^368 < 0.025.
        assert_eq!(ranks(367, 0.99).1, None);
        assert_eq!(ranks(368, 0.99).1, Some(367));
        assert_eq!(ranks(0, 0.5), (None, None));
    }

    #[test]
    fn the_interval_holds_the_truth_nineteen_times_in_twenty() {
        let mut random = Stream::new(3, RngStream::Arrivals);
        for (n, q) in [(50_usize, 0.5), (500, 0.9), (2000, 0.99)] {
            let truth = -(1.0_f64 - q).ln();
            let hits = (0..1000).filter(|_| {
                let mut samples: Vec<f64> = (0..n).map(|_| random.exponential()).collect();
                samples.sort_unstable_by(f64::total_cmp);
                let [low, high] = interval(&samples, q);
                low.is_none_or(|low| low <= truth) && high.is_none_or(|high| truth <= high)
            });
            let hits = hits.count();
            assert!((940..=990).contains(&hits), "{hits} of 1000 for {n} samples at {q}");
        }
    }

    #[test]
    fn rare_percentiles_need_samples() {
        assert_eq!(Distribution::of(vec![1.0; 999]).quantiles.p999, None);
        assert_eq!(Distribution::of(vec![1.0; 1000]).quantiles.p999, Some(1.0));
        assert_eq!(Distribution::of(Vec::new()), Distribution::default());
    }

    proptest! {
        #[test]
        fn the_interval_holds_its_quantile(samples in prop::collection::vec(0.0..1e9_f64, 1..400)) {
            let of = Distribution::of(samples);
            for name in ["p50", "p90", "p95", "p99"] {
                let (Some(value), [low, high]) = of.named(name).unwrap() else { panic!("{name}") };
                prop_assert!(low.is_none_or(|low| low <= value), "{name} {of:?}");
                prop_assert!(high.is_none_or(|high| value <= high), "{name} {of:?}");
            }
        }
    }
}
