//! Bins of equal length that the times of a run fall into.

use serde::{Deserialize, Serialize};
use traces::quantile::quantile;
use traces::units::NS_PER_S;

use super::round3;
use crate::send::record::RequestRecord;

/// Largest number of bins of a series.
const BINS_MAX: f64 = 120.0;
/// Number of requests that a bin should have for meaningful percentiles.
const BIN_REQUESTS: f64 = 20.0;
/// Smallest number of bins, even if they have few requests.
const BINS_MIN: f64 = 12.0;

/// Percentiles of the requests that were due in each bin.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Band {
    /// Medians.
    pub p50: Vec<Option<f64>>,
    /// 90th percentiles.
    pub p90: Vec<Option<f64>>,
    /// 99th percentiles.
    pub p99: Vec<Option<f64>>,
}

/// Bins over the length of a run.
pub(super) struct Bins {
    start_ns: i64,
    pub(super) width_ns: i64,
    pub(super) count: usize,
}

impl Bins {
    /// Creates bins from `start_ns` to `end_ns` for `requests` requests.
    pub(super) fn new(start_ns: i64, end_ns: i64, requests: usize) -> Self {
        let wanted = (requests as f64 / BIN_REQUESTS).clamp(BINS_MIN, BINS_MAX);
        let width_ns = round_up((end_ns - start_ns).max(1) as f64 / wanted).max(1.0) as i64;
        let count = ((end_ns - start_ns) / width_ns + 1) as usize;
        Self { start_ns, width_ns, count }
    }

    /// Returns the bin of a time; `None` for a time outside of the run.
    pub(super) fn of(&self, at_ns: i64) -> Option<usize> {
        let place = usize::try_from((at_ns - self.start_ns).div_euclid(self.width_ns)).ok()?;
        Some(place).filter(|place| *place < self.count)
    }

    /// Returns the start of a bin in seconds.
    pub(super) fn start_s(&self, place: usize) -> f64 {
        (self.start_ns + place as i64 * self.width_ns) as f64 / NS_PER_S as f64
    }

    /// Sums the values in each bin.
    pub(super) fn sum(&self, values: impl Iterator<Item = (i64, f64)>) -> Vec<f64> {
        let mut sums = vec![0.0; self.count];
        for (at_ns, value) in values {
            if let Some(place) = self.of(at_ns) {
                sums[place] += value;
            }
        }
        sums
    }

    /// Computes the percentiles of the values in each bin.
    pub(super) fn band(&self, values: impl Iterator<Item = (i64, f64)>) -> Band {
        let mut bins = vec![Vec::new(); self.count];
        for (at_ns, value) in values {
            if let Some(place) = self.of(at_ns) {
                bins[place].push(value);
            }
        }
        for bin in &mut bins {
            bin.sort_unstable_by(f64::total_cmp);
        }
        let of = |q: f64| bins.iter().map(|bin| quantile(bin, q).map(round3)).collect();
        Band { p50: of(0.5), p90: of(0.9), p99: of(0.99) }
    }

    /// Returns the largest number of requests in flight in each bin.
    pub(super) fn most_in_flight(&self, all: &[&RequestRecord]) -> Vec<u32> {
        let sent = all.iter().filter_map(|r| Some((r.dispatched_ns?, r.finished_ns)));
        // At equal times, the end of a request comes before the start of another.
        let mut changes: Vec<(i64, i32)> =
            sent.flat_map(|(from, to)| [(from, 1), (to.max(from + 1), -1)]).collect();
        changes.sort_unstable();
        let (mut now, mut next, mut most) = (0_i32, 0, vec![0_u32; self.count]);
        for (place, most) in most.iter_mut().enumerate() {
            let end_ns = self.start_ns + (place as i64 + 1) * self.width_ns;
            *most = now.unsigned_abs();
            while let Some((_, change)) = changes.get(next).filter(|(at, _)| *at < end_ns) {
                now += change;
                next += 1;
                *most = (*most).max(now.unsigned_abs());
            }
        }
        most
    }
}

/// Rounds up to one of 1, 2, 5, 10, 20 …
pub(super) fn round_up(value: f64) -> f64 {
    let decade = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|step| step * decade)
        .find(|step| *step >= value * (1.0 - 1e-9))
        .unwrap_or(value)
}
