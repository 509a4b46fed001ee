//! Intended times of a synthetic load, absolute, in nanoseconds.

use traces::gaps::Gaps;
use traces::random::{RngStream, Stream};
use traces::rate::{Clock, Rate};
use traces::units::{NS_PER_S, Nanos};

/// Largest number of requests of a run.
pub const REQUESTS_MAX: usize = 10_000_000;

/// A renewal process whose clock follows a rate.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrivals {
    /// Distribution of gaps, on a clock that advances by 1 per expected request.
    pub gaps: Gaps,
    /// Request rate over time.
    pub rate: Rate,
}

/// Bounds of a synthetic load. It ends at the first that is reached.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Largest number of requests.
    pub requests: Option<usize>,
    /// End of the load: no request at or after this time.
    pub duration: Option<Nanos>,
}

/// Flags that give no schedule.
#[derive(Debug, thiserror::Error)]
pub enum ArrivalsError {
    /// The rate or one of its parameters is out of range.
    #[error(
        "{0:?} is not a rate: expected a positive number of requests per second, a swing from 0 to \
         1 and positive times"
    )]
    Rate(Rate),
    /// The parameter of the gaps is out of range.
    #[error("{0:?} is out of range: expected a number from 0.01 to 100")]
    Gaps(Gaps),
    /// Neither bound is set.
    #[error("an endless load needs --requests or --duration")]
    Endless,
    /// The bounds allow more than `REQUESTS_MAX`.
    #[error("the load would have more than {REQUESTS_MAX} requests")]
    TooMany,
    /// The bounds allow no request.
    #[error("the load has no request: {0:?}")]
    Empty(Bounds),
}

/// Draws the intended times, ascending, from the start of the load. They are the process itself:
/// nothing is rescaled to reach a total.
pub fn intended_times(
    arrivals: &Arrivals,
    bounds: Bounds,
    seed: u64,
) -> Result<Vec<i64>, ArrivalsError> {
    if !arrivals.rate.is_valid() {
        return Err(ArrivalsError::Rate(arrivals.rate.clone()));
    }
    if !arrivals.gaps.is_valid() {
        return Err(ArrivalsError::Gaps(arrivals.gaps));
    }
    let ends = matches!(arrivals.rate, Rate::Steps(_));
    if bounds.requests.is_none() && bounds.duration.is_none() && !ends {
        return Err(ArrivalsError::Endless);
    }
    let end_ns = bounds.duration.map_or(i64::MAX as f64 / 4.0, |d| d.0 as f64);
    let mut stream = Stream::new(seed, RngStream::Arrivals);
    let mut clock = Clock::new(arrivals.rate.clone(), Stream::new(seed, RngStream::States));
    let mut times = Vec::new();
    let mut expected = 0.0;
    while bounds.requests.is_none_or(|n| times.len() < n) {
        match arrivals.gaps {
            // Counted, not summed, so that they do not drift.
            Gaps::Constant => expected = times.len() as f64,
            gaps if times.is_empty() => expected = gaps.draw_first(&mut stream),
            gaps => expected += gaps.draw(&mut stream),
        }
        let Some(at_s) = clock.when(expected) else { break };
        let at_ns = at_s * NS_PER_S as f64;
        if at_ns >= end_ns {
            break;
        }
        if times.len() == REQUESTS_MAX {
            return Err(ArrivalsError::TooMany);
        }
        times.push(at_ns.round() as i64);
    }
    if times.is_empty() { Err(ArrivalsError::Empty(bounds)) } else { Ok(times) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use traces::rate::Steps;

    fn requests(n: usize) -> Bounds {
        Bounds { requests: Some(n), duration: None }
    }

    fn flat(gaps: Gaps, rate: f64) -> Arrivals {
        Arrivals { gaps, rate: Rate::Flat(rate) }
    }

    fn dispersion(times: &[i64], bin_s: i64) -> f64 {
        let bins = (times[times.len() - 1] / NS_PER_S / bin_s) as usize;
        let mut counts = vec![0.0; bins];
        for t in times.iter().map(|t| (t / NS_PER_S / bin_s) as usize).filter(|t| *t < bins) {
            counts[t] += 1.0;
        }
        let mean = counts.iter().sum::<f64>() / bins as f64;
        counts.iter().map(|c| (c - mean).powi(2)).sum::<f64>() / bins as f64 / mean
    }

    #[test]
    fn constant_times_do_not_drift() {
        let times = intended_times(&flat(Gaps::Constant, 3.0), requests(3_000_001), 1).unwrap();
        assert_eq!(times[0], 0);
        assert_eq!(times[3_000_000], 1_000_000 * NS_PER_S);
    }

    #[test]
    fn gaps_have_the_mean_and_the_variation_of_their_distribution() {
        for (gaps, cv) in [
            (Gaps::Exponential, 1.0),
            (Gaps::Gamma { cv: 0.3 }, 0.3),
            (Gaps::Gamma { cv: 2.5 }, 2.5),
            (Gaps::Weibull { shape: 0.7 }, 1.4624),
        ] {
            let times = intended_times(&flat(gaps, 50.0), requests(300_000), 7).unwrap();
            let gaps_s: Vec<f64> = times.windows(2).map(|w| (w[1] - w[0]) as f64 / 1e9).collect();
            let mean = gaps_s.iter().sum::<f64>() / gaps_s.len() as f64;
            let var = gaps_s.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps_s.len() as f64;
            assert!((mean * 50.0 - 1.0).abs() < 0.02, "{gaps:?}: mean gap {mean}");
            assert!((var.sqrt() / mean / cv - 1.0).abs() < 0.03, "{gaps:?}: {}", var.sqrt() / mean);
        }
    }

    #[test]
    fn counts_vary_as_the_process_does_since_nothing_is_scaled_to_fit() {
        let times = intended_times(&flat(Gaps::Exponential, 50.0), requests(200_000), 7).unwrap();
        let index = dispersion(&times, 1);
        assert!((index - 1.0).abs() < 0.08, "index of dispersion {index}");
        // For long bins the index of a renewal process is cv².
        let bursty = flat(Gaps::Gamma { cv: 2.0 }, 50.0);
        let index = dispersion(&intended_times(&bursty, requests(400_000), 7).unwrap(), 10);
        assert!((index / 4.0 - 1.0).abs() < 0.15, "index of dispersion {index}");
        let totals: Vec<usize> = (0..200)
            .map(|seed| {
                let bounds = Bounds { requests: None, duration: Some(Nanos(100 * NS_PER_S)) };
                intended_times(&flat(Gaps::Exponential, 4.0), bounds, seed).unwrap().len()
            })
            .collect();
        let mean = totals.iter().sum::<usize>() as f64 / 200.0;
        let var = totals.iter().map(|n| (*n as f64 - mean).powi(2)).sum::<f64>() / 200.0;
        assert!((mean / 400.0 - 1.0).abs() < 0.02, "mean {mean}");
        assert!((0.7..1.4).contains(&(var / 400.0)), "variance {var}");
    }

    #[test]
    fn a_bursty_load_is_as_dense_at_its_start_as_later() {
        // Renewal theory: over any start, cv² = 9 has the first arrival after (1 + 9) / 2 gaps.
        let bursty = flat(Gaps::Gamma { cv: 3.0 }, 1.0);
        let first = (0..20_000).map(|seed| intended_times(&bursty, requests(1), seed).unwrap()[0]);
        let mean = first.map(|ns| ns as f64 / 1e9).sum::<f64>() / 20_000.0;
        assert!((mean / 5.0 - 1.0).abs() < 0.05, "{mean}");
    }

    #[test]
    fn rates_over_time_are_followed() {
        let rate = Rate::Sine { mean: 100.0, swing: 0.9, period_s: 600.0 };
        let sine = Arrivals { gaps: Gaps::Exponential, rate };
        let bounds = Bounds { requests: None, duration: Some(Nanos(600 * NS_PER_S)) };
        let times = intended_times(&sine, bounds, 3).unwrap();
        let early = times.iter().filter(|t| **t < 300 * NS_PER_S).count() as f64;
        assert!((times.len() as f64 / 60_000.0 - 1.0).abs() < 0.02, "{}", times.len());
        // 30,000 and 100 · 0.9 · 600 / π more.
        assert!((early / 47_189.0 - 1.0).abs() < 0.02, "{early}");
        let steps = Steps { steps: vec![(0.0, 10.0), (100.0, 90.0)], end_s: 200.0 };
        let steps = Arrivals { gaps: Gaps::Exponential, rate: Rate::Steps(steps) };
        let times = intended_times(&steps, Bounds { requests: None, duration: None }, 3).unwrap();
        let early = times.iter().filter(|t| **t < 100 * NS_PER_S).count();
        assert!((900..1100).contains(&early), "{early}");
        assert!((8_700..9_300).contains(&(times.len() - early)), "{}", times.len());
        let rate = Rate::OnOff { mean: 50.0, on_s: 1.0, off_s: 3.0 };
        let bursts = Arrivals { gaps: Gaps::Exponential, rate };
        let times = intended_times(&bursts, requests(300_000), 5).unwrap();
        let mean = 300_000.0 / (times[299_999] as f64 / 1e9);
        assert!((mean / 50.0 - 1.0).abs() < 0.1, "{mean}");
        assert!(dispersion(&times, 1) > 20.0, "no bursts");
    }

    #[test]
    fn the_same_seed_gives_the_same_times_and_another_seed_does_not() {
        for gaps in [Gaps::Exponential, Gaps::Gamma { cv: 2.0 }, Gaps::Weibull { shape: 0.5 }] {
            let draw = |seed| intended_times(&flat(gaps, 9.0), requests(500), seed).unwrap();
            assert_eq!(draw(3), draw(3));
            assert_ne!(draw(3), draw(4));
            assert!(draw(3).is_sorted());
        }
    }

    #[test]
    fn bounds_end_the_load() {
        let second = Bounds { requests: None, duration: Some(Nanos(NS_PER_S)) };
        assert_eq!(intended_times(&flat(Gaps::Constant, 10.0), second, 0).unwrap().len(), 10);
        let endless = Bounds { requests: None, duration: None };
        assert!(matches!(
            intended_times(&flat(Gaps::Constant, 1.0), endless, 0),
            Err(ArrivalsError::Endless)
        ));
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(
                intended_times(&flat(Gaps::Exponential, rate), second, 0),
                Err(ArrivalsError::Rate(_))
            ));
        }
        for gaps in [Gaps::Gamma { cv: 0.0 }, Gaps::Weibull { shape: f64::NAN }] {
            assert!(matches!(
                intended_times(&flat(gaps, 1.0), second, 0),
                Err(ArrivalsError::Gaps(_))
            ));
        }
    }
}
