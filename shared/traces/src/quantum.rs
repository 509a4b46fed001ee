//! Coarse time stamps: detection of their grid, and arrivals spread over its steps.

use super::trace::Trace;
use crate::random::{RngStream, Stream};

/// Treatment of arrivals that share one coarse time stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum Dequantize {
    /// Leave them together.
    None,
    /// Spread them evenly until the next time stamp.
    Uniform,
    /// Spread them as a Poisson process with the same number of arrivals.
    Poisson,
}

/// Grid of a trace's time stamps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantum {
    /// Distance of neighboring time stamps.
    pub step_ns: i64,
    /// Largest number of requests at one instant.
    pub largest_burst: usize,
}

/// Finds the grid of a trace's time stamps, if they lie on one.
pub fn quantum_of(trace: &Trace) -> Option<Quantum> {
    let times: Vec<i64> = trace.records.iter().map(|r| r.at_ns).collect();
    find_quantum(&times)
}

/// Finds the grid of ascending `times`. There is one if at least half of the requests share an
/// instant with another, and nine in ten gaps between instants are multiples of one step, within
/// 1 % of it.
pub fn find_quantum(times: &[i64]) -> Option<Quantum> {
    let mut instants = times.to_vec();
    instants.dedup();
    if times.len() < 20 || instants.len() < 3 || times.len() < 2 * instants.len() {
        return None;
    }
    let mut gaps: Vec<i64> = instants.windows(2).map(|w| w[1] - w[0]).collect();
    gaps.sort_unstable();
    let step_ns = gaps[gaps.len() / 2];
    let on_grid = gaps.iter().filter(|gap| {
        let steps = ((**gap as f64) / step_ns as f64).round().max(1.0);
        (**gap as f64 - steps * step_ns as f64).abs() <= 0.01 * step_ns as f64
    });
    if on_grid.count() * 10 < gaps.len() * 9 {
        return None;
    }
    let largest_burst = times.chunk_by(|a, b| a == b).map(<[i64]>::len).max().unwrap_or(0);
    Some(Quantum { step_ns, largest_burst })
}

/// Spreads each group of equal times over the span until the next one, in their order.
pub(crate) fn spread(times: &[i64], step_ns: i64, how: Dequantize, seed: u64) -> Vec<i64> {
    let mut stream = Stream::new(seed, RngStream::Dequantize);
    let mut spread = Vec::with_capacity(times.len());
    let groups: Vec<&[i64]> = times.chunk_by(|a, b| a == b).collect();
    for (at, group) in groups.iter().enumerate() {
        let start = group[0];
        let next = groups.get(at + 1).map_or(start + step_ns, |next| next[0]);
        let span = (next - start).min(step_ns + step_ns / 2) as f64;
        let mut parts: Vec<f64> = match how {
            Dequantize::Poisson => group.iter().map(|_| stream.unit()).collect(),
            _ => (0..group.len()).map(|i| i as f64 / group.len() as f64).collect(),
        };
        parts.sort_unstable_by(f64::total_cmp);
        spread.extend(parts.iter().map(|part| start + (part * span) as i64));
    }
    spread
}
