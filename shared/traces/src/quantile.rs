//! Quantiles of raw samples.

use serde::{Deserialize, Serialize};

/// Smallest number of samples for a 99.9th percentile.
pub const P999_SAMPLES: usize = 1000;

/// Returns the `q` quantile of ascending samples, interpolated linearly between neighbors; `None`
/// without samples.
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let rank = last as f64 * q.clamp(0.0, 1.0);
    let below = rank.floor() as usize;
    let above = (below + 1).min(last);
    Some(sorted[below] + (sorted[above] - sorted[below]) * (rank - below as f64))
}

/// Count, mean and quantiles of a set of samples.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Number of samples.
    pub count: usize,
    /// Arithmetic mean.
    pub mean: Option<f64>,
    /// Median.
    pub p50: Option<f64>,
    /// 90th percentile.
    pub p90: Option<f64>,
    /// 99th percentile.
    pub p99: Option<f64>,
    /// 99.9th percentile; only with 1,000 samples or more.
    pub p999: Option<f64>,
    /// Largest sample.
    pub max: Option<f64>,
}

impl Quantiles {
    /// Computes the quantiles of `samples`, in their unit.
    pub fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_unstable_by(f64::total_cmp);
        Self::of_sorted(&samples)
    }

    /// Computes the quantiles of ascending `samples`, in their unit.
    pub fn of_sorted(samples: &[f64]) -> Self {
        let count = samples.len();
        Self {
            count,
            mean: (count > 0).then(|| samples.iter().sum::<f64>() / count as f64),
            p50: quantile(samples, 0.5),
            p90: quantile(samples, 0.9),
            p99: quantile(samples, 0.99),
            p999: if count >= P999_SAMPLES { quantile(samples, 0.999) } else { None },
            max: samples.last().copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantiles_interpolate() {
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0], 0.5), Some(2.5));
        assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0], 1.0), Some(4.0));
        assert_eq!(Quantiles::of(vec![1.0; 999]).p999, None);
        assert_eq!(Quantiles::of(vec![1.0; 1000]).p999, Some(1.0));
    }

    proptest! {
        #[test]
        fn quantiles_are_ordered_and_bounded(samples in prop::collection::vec(0.0..1e9_f64, 1..200)) {
            let max = samples.iter().copied().fold(0.0, f64::max);
            let q = Quantiles::of(samples);
            prop_assert!(q.p50 <= q.p90 && q.p90 <= q.p99 && q.p99 <= q.max);
            prop_assert_eq!(q.max, Some(max));
        }
    }
}
