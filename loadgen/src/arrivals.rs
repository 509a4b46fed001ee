//! Draws the intended send times of a synthetic load: constant or Poisson, absolute, in nanoseconds.

use crate::random::{Cause, Stream};
use crate::units::{NS_PER_S, Nanos};

/// The most requests one run may plan.
pub const MAX_REQUESTS: usize = 10_000_000;

/// How the gaps between arrivals are distributed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Arrivals {
    /// Exponential gaps of mean 1 / rate.
    Poisson,
    /// Every gap is 1 / rate.
    Constant,
}

/// When a synthetic load ends: at the first bound that is reached.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// At most this many requests.
    pub requests: Option<usize>,
    /// No request at or after this time.
    pub duration: Option<Nanos>,
}

/// Why no schedule could be made.
#[derive(Debug, thiserror::Error)]
pub enum ArrivalsError {
    /// The rate is zero, negative or not finite.
    #[error("the rate must be a positive number of requests per second, not {0}")]
    Rate(f64),
    /// Neither bound was given.
    #[error("an endless load needs --requests or --duration")]
    Endless,
    /// The bounds allow more than `MAX_REQUESTS`.
    #[error("the load would have more than {MAX_REQUESTS} requests")]
    TooMany,
    /// The bounds allow nothing.
    #[error("the load has no request: {0:?}")]
    Empty(Bounds),
}

/// The intended send times, ascending, from the start of the load.
pub fn intended_times(
    arrivals: Arrivals,
    rate_per_s: f64,
    bounds: Bounds,
    seed: u64,
) -> Result<Vec<i64>, ArrivalsError> {
    if !(rate_per_s.is_finite() && rate_per_s > 0.0) {
        return Err(ArrivalsError::Rate(rate_per_s));
    }
    if bounds.requests.is_none() && bounds.duration.is_none() {
        return Err(ArrivalsError::Endless);
    }
    let gap_ns = NS_PER_S as f64 / rate_per_s;
    let end_ns = bounds.duration.map_or(i64::MAX as f64 / 4.0, |d| d.0 as f64);
    let mut stream = Stream::new(seed, Cause::Arrivals);
    let mut times = Vec::new();
    let mut at_ns = 0.0;
    while bounds.requests.is_none_or(|n| times.len() < n) {
        match arrivals {
            Arrivals::Constant => at_ns = times.len() as f64 * gap_ns,
            Arrivals::Poisson => at_ns += stream.exponential() * gap_ns,
        }
        if at_ns >= end_ns {
            break;
        }
        if times.len() == MAX_REQUESTS {
            return Err(ArrivalsError::TooMany);
        }
        times.push(at_ns.round() as i64);
    }
    if times.is_empty() { Err(ArrivalsError::Empty(bounds)) } else { Ok(times) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(n: usize) -> Bounds {
        Bounds { requests: Some(n), duration: None }
    }

    #[test]
    fn constant_times_do_not_drift() {
        let times = intended_times(Arrivals::Constant, 3.0, requests(3_000_001), 1).unwrap();
        assert_eq!(times[0], 0);
        assert_eq!(times[3_000_000], 1_000_000 * NS_PER_S);
    }

    #[test]
    fn poisson_gaps_have_the_mean_and_the_variance_of_the_exponential() {
        let times = intended_times(Arrivals::Poisson, 50.0, requests(200_000), 7).unwrap();
        let gaps: Vec<f64> = times.windows(2).map(|w| (w[1] - w[0]) as f64 / 1e9).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let var = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean * 50.0 - 1.0).abs() < 0.01, "mean gap {mean}");
        assert!((var.sqrt() / mean - 1.0).abs() < 0.02, "CV {}", var.sqrt() / mean);
        // Counts in windows vary as a Poisson process does: the schedule is not rescaled to fit.
        let bins = (times[times.len() - 1] / NS_PER_S) as usize;
        let mut counts = vec![0.0; bins];
        for t in times.iter().map(|t| (t / NS_PER_S) as usize).filter(|t| *t < bins) {
            counts[t] += 1.0;
        }
        let mean = counts.iter().sum::<f64>() / bins as f64;
        let var = counts.iter().map(|c| (c - mean).powi(2)).sum::<f64>() / bins as f64;
        assert!((var / mean - 1.0).abs() < 0.08, "index of dispersion {}", var / mean);
    }

    #[test]
    fn the_same_seed_gives_the_same_times_and_another_seed_does_not() {
        let draw = |seed| intended_times(Arrivals::Poisson, 9.0, requests(500), seed).unwrap();
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
    }

    #[test]
    fn bounds_end_the_load() {
        let second = Bounds { requests: None, duration: Some(Nanos(NS_PER_S)) };
        assert_eq!(intended_times(Arrivals::Constant, 10.0, second, 0).unwrap().len(), 10);
        let endless = Bounds { requests: None, duration: None };
        assert!(matches!(
            intended_times(Arrivals::Constant, 1.0, endless, 0),
            Err(ArrivalsError::Endless)
        ));
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(
                intended_times(Arrivals::Poisson, rate, second, 0),
                Err(ArrivalsError::Rate(_))
            ));
        }
    }
}
