//! Quantiles of raw samples.

use serde::Serialize;

/// The `q` quantile of ascending samples, interpolated linearly between neighbours; none if empty.
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let rank = last as f64 * q.clamp(0.0, 1.0);
    let below = rank.floor() as usize;
    let above = (below + 1).min(last);
    Some(sorted[below] + (sorted[above] - sorted[below]) * (rank - below as f64))
}

/// What is reported of a set of samples.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Quantiles {
    /// How many samples there are.
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
    /// The quantiles of `samples`, in their unit.
    pub fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_unstable_by(f64::total_cmp);
        let count = samples.len();
        Self {
            count,
            mean: (count > 0).then(|| samples.iter().sum::<f64>() / count as f64),
            p50: quantile(&samples, 0.5),
            p90: quantile(&samples, 0.9),
            p99: quantile(&samples, 0.99),
            p999: if count >= 1000 { quantile(&samples, 0.999) } else { None },
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
