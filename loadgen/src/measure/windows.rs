//! The measured window of a run. A request belongs to the window of its intended time.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use traces::units::{Nanos, UnitError};

/// Samples in a batch of the MSER rule.
const BATCH: usize = 5;
/// Smallest number of batches for the rule.
const LEAST_BATCHES: usize = 10;

/// Rule for leaving out the fill of the system at the start of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warmup {
    /// Measure every request.
    None,
    /// Apply the MSER-5 rule to the times to first token.
    Auto,
    /// Leave out this many requests.
    Count(usize),
    /// Leave out the requests that are due before this time.
    Time(Nanos),
}

/// A text that is not a warm-up.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a warm-up: write none, auto, a number of requests such as 50, or 10s")]
pub struct WarmupError(String);

impl FromStr for Warmup {
    type Err = WarmupError;

    fn from_str(text: &str) -> Result<Self, WarmupError> {
        match text {
            "none" => Ok(Self::None),
            "auto" => Ok(Self::Auto),
            _ => text.parse().map(Self::Count).or_else(|_| {
                text.parse().map(Self::Time).map_err(|_: UnitError| WarmupError(text.into()))
            }),
        }
    }
}

impl fmt::Display for Warmup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Auto => f.write_str("auto"),
            Self::Count(requests) => write!(f, "{requests}"),
            Self::Time(time) => write!(f, "{time}"),
        }
    }
}

/// Result of the MSER-5 rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Settling {
    /// Unknown: too few samples.
    Unknown,
    /// Steady after this many samples.
    After(usize),
    /// Not steady in the first half: the run is too short, or the load is too high.
    Never,
}

/// Applies the MSER-5 rule (White 1997, batches of five): finds the start to leave out for which
/// the mean of the remaining `samples`, in order of arrival, has the smallest error.
pub fn settling(samples: &[f64]) -> Settling {
    let batches: Vec<f64> =
        samples.chunks_exact(BATCH).map(|b| b.iter().sum::<f64>() / BATCH as f64).collect();
    let count = batches.len();
    if count < LEAST_BATCHES {
        return Settling::Unknown;
    }
    // From the end, so that running sums cover the samples after each possible start.
    let (mut sum, mut squares, mut best) = (0.0, 0.0, (f64::INFINITY, 0));
    let center = batches[count / 2];
    for (place, batch) in batches.iter().enumerate().rev() {
        let (value, kept) = (batch - center, (count - place) as f64);
        sum += value;
        squares += value * value;
        let spread = (squares - sum * sum / kept).max(0.0) / (kept * kept);
        // A handful of similar batches at the end has no meaning.
        if kept >= BATCH as f64 && spread <= best.0 {
            best = (spread, place);
        }
    }
    if best.1 > count / 2 { Settling::Never } else { Settling::After(best.1 * BATCH) }
}

/// The measured window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WindowReport {
    /// Requested warm-up: none, auto, a count or a time.
    pub warmup: String,
    /// Intended time of the first measured request.
    pub from_s: f64,
    /// Intended time of the last measured request.
    pub to_s: f64,
    /// Requests before the window: sent and shown, not in any figure.
    pub warmup_requests: usize,
    /// Requests in the window.
    pub measured_requests: usize,
    /// Requests after the window, sent to keep up the load until the measured ones are over.
    pub cooldown_requests: usize,
    /// Time from the last measured arrival to the end of the last measured request.
    pub drain_s: f64,
    /// Result of MSER-5 for the times to first token.
    pub settling: Option<Settling>,
}

/// Returns the number of first arrivals that `warmup` leaves out. `at_ns` has the intended times
/// in order, `ttft` the times to first token with the indices of their arrivals.
pub fn left_out(warmup: Warmup, at_ns: &[i64], ttft: &[(usize, f64)]) -> (usize, Settling) {
    let values: Vec<f64> = ttft.iter().map(|(_, value)| *value).collect();
    let settling = settling(&values);
    let place = |samples: usize| ttft.get(samples).map_or(0, |(place, _)| *place);
    let first = at_ns.first().copied().unwrap_or(0);
    let count = match (warmup, settling) {
        (Warmup::Count(count), _) => count.min(at_ns.len()),
        (Warmup::Time(time), _) => at_ns.partition_point(|at| at - first < time.0),
        (Warmup::Auto, Settling::After(samples)) => place(samples),
        (Warmup::Auto | Warmup::None, _) => 0,
    };
    (count, settling)
}

#[cfg(test)]
mod tests {
    use super::*;
    use traces::random::{RngStream, Stream};
    use traces::units::NS_PER_S;

    #[test]
    fn warmups_are_read() {
        assert_eq!("50".parse(), Ok(Warmup::Count(50)));
        assert_eq!("10s".parse(), Ok(Warmup::Time(Nanos(10 * NS_PER_S))));
        assert_eq!("auto".parse(), Ok(Warmup::Auto));
        for bad in ["-1", "ten", "", "5 parsec"] {
            assert!(bad.parse::<Warmup>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_fill_of_a_system_is_found() {
        let mut random = Stream::new(1, RngStream::Arrivals);
        // 100 samples of a cold start that fades, then 900 that are steady.
        let fill: Vec<f64> = (0..1000)
            .map(|i| 100.0 + random.unit() * 10.0 + 400.0 * (-f64::from(i) / 30.0).exp())
            .collect();
        let Settling::After(cut) = settling(&fill) else { panic!("{:?}", settling(&fill)) };
        assert!((60..200).contains(&cut), "{cut}");
        assert_eq!(settling(&fill[..49]), Settling::Unknown);
    }

    #[test]
    fn a_queue_that_grows_never_settles_and_is_not_cut() {
        let growing: Vec<f64> = (0..400).map(f64::from).collect();
        assert_eq!(settling(&growing), Settling::Never);
        let at: Vec<i64> = (0..400).collect();
        let ttft: Vec<(usize, f64)> = growing.into_iter().enumerate().collect();
        assert_eq!(left_out(Warmup::Auto, &at, &ttft), (0, Settling::Never));
    }

    #[test]
    fn the_start_is_left_out_by_arrival() {
        let at: Vec<i64> = (0..10).map(|i| 5 + i * NS_PER_S).collect();
        let count = |warmup| left_out(warmup, &at, &[]).0;
        assert_eq!(count(Warmup::None), 0);
        assert_eq!(count(Warmup::Count(3)), 3);
        assert_eq!(count(Warmup::Count(30)), 10);
        assert_eq!(count(Warmup::Time(Nanos(3 * NS_PER_S))), 3);
        // Failures have no time to first token: the cut is at the sample's own arrival.
        let ttft: Vec<(usize, f64)> =
            (0..60).map(|i| (2 * i, if i < 10 { 90.0 } else { f64::from(i as u32 % 5) })).collect();
        let at: Vec<i64> = (0..120).collect();
        assert_eq!(left_out(Warmup::Auto, &at, &ttft), (20, Settling::After(10)));
    }
}
