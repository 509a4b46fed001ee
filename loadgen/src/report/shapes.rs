//! Distributions of latencies: histograms with linear or logarithmic edges, and cumulative curves.

use serde::{Deserialize, Serialize};
use traces::quantile::quantile;

use super::measured::Measured;
use super::{ms, round3};
use crate::send::record::RequestRecord;

/// Number of bars of a histogram.
const BARS: usize = 40;
/// Ratio of largest to smallest value from which on edges are logarithmic.
const LOG_RATIO: f64 = 20.0;

/// Distribution of one metric.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    /// True if the edges are logarithmic.
    pub log: bool,
    /// Edges of the bars, one more than there are bars.
    pub edges_ms: Vec<f64>,
    /// Requests in each bar.
    pub counts: Vec<u32>,
    /// Shares of the requests, in percent.
    pub percent: Vec<f64>,
    /// Times within which those shares were served.
    pub within_ms: Vec<f64>,
}

impl Shape {
    /// Returns whether there is one edge more than there are bars, and a time for each share.
    pub fn is_whole(&self) -> bool {
        let bars = self.counts.len();
        self.edges_ms.len() == if bars == 0 { 0 } else { bars + 1 }
            && self.percent.len() == self.within_ms.len()
    }
}

/// Distributions of the measured requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Shapes {
    /// Time to first token from the intended time.
    pub ttft: Shape,
    /// Time per output token.
    pub tpot: Shape,
}

/// Computes the distributions of a run.
pub fn shapes(run: &Measured<'_>) -> Shapes {
    let ttft = |r: &RequestRecord| r.ttft_ns(r.intended_ns).map(ms);
    let tpot = |r: &RequestRecord| r.tpot_ns().map(|ns| ns / 1e6);
    Shapes {
        ttft: shape(run.completed().filter_map(ttft).collect()),
        tpot: shape(run.completed().filter_map(tpot).collect()),
    }
}

fn shape(mut values: Vec<f64>) -> Shape {
    values.sort_unstable_by(f64::total_cmp);
    let (Some(&low), Some(&high)) = (values.first(), values.last()) else {
        return Shape::default();
    };
    let log = low > 0.0 && high / low >= LOG_RATIO;
    let edges = edges(low, high, log);
    let mut counts = vec![0; BARS];
    for value in &values {
        let place = edges.partition_point(|edge| edge <= value).saturating_sub(1);
        counts[place.min(BARS - 1)] += 1;
    }
    let mut percent: Vec<f64> = (0..=100).map(f64::from).collect();
    percent.splice(100..100, [99.5, 99.9].into_iter().filter(|_| values.len() >= 1000));
    Shape {
        log,
        within_ms: percent
            .iter()
            .filter_map(|percent| quantile(&values, percent / 100.0).map(round3))
            .collect(),
        percent,
        edges_ms: edges.into_iter().map(round3).collect(),
        counts,
    }
}

fn edges(low: f64, high: f64, log: bool) -> Vec<f64> {
    // A single value still has bars with a width.
    let high = high.max(low * 1.001).max(low + 1e-3);
    (0..=BARS)
        .map(|bar| {
            let part = bar as f64 / BARS as f64;
            if log { low * (high / low).powf(part) } else { low + (high - low) * part }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_long_tail_gets_logarithmic_edges() {
        assert!(!shape(vec![10.0, 12.0, 30.0]).log);
        let tail = shape(vec![10.0, 12.0, 3000.0]);
        assert!(tail.log);
        assert_eq!((tail.counts[0], tail.counts[39]), (1, 1));
        assert_eq!(shape(Vec::new()), Shape::default());
    }

    proptest! {
        #[test]
        fn every_value_is_in_a_bar(values in prop::collection::vec(0.0..1e6_f64, 1..300)) {
            let count = values.len();
            let shape = shape(values);
            prop_assert_eq!(shape.counts.iter().sum::<u32>() as usize, count);
            prop_assert!(shape.edges_ms.is_sorted() && shape.within_ms.is_sorted());
            prop_assert_eq!(shape.percent.len(), shape.within_ms.len());
        }
    }
}
