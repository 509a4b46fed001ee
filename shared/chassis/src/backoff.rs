//! Waiting longer after each failure, with jitter so that many do not return at once.

use std::time::Duration;

/// An exponential back-off: pure, the caller counts attempts and brings the randomness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The delay after the first failure, before jitter.
    pub first: Duration,
    /// The largest delay.
    pub max: Duration,
}

impl Backoff {
    /// The delay before attempt `attempt` (1 is the first retry), doubling up to the maximum.
    ///
    /// `jitter` from 0 to 1 spreads the delay over its upper half; other values are clamped.
    pub fn delay(&self, attempt: u32, jitter: f64) -> Duration {
        let doublings = attempt.saturating_sub(1).min(31);
        let full = self.first.saturating_mul(1 << doublings).min(self.max);
        let jitter = if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { 0.0 };
        full.mul_f64(0.5 + jitter / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff =
        Backoff { first: Duration::from_millis(100), max: Duration::from_secs(5) };

    #[test]
    fn the_delay_doubles_up_to_the_maximum() {
        let delays: Vec<u128> =
            (1..=8).map(|attempt| BACKOFF.delay(attempt, 1.0).as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(BACKOFF.delay(u32::MAX, 1.0), BACKOFF.max);
    }

    #[test]
    fn jitter_spreads_over_the_upper_half() {
        assert_eq!(BACKOFF.delay(1, 0.0).as_millis(), 50);
        assert_eq!(BACKOFF.delay(1, 0.5).as_millis(), 75);
        assert_eq!(BACKOFF.delay(1, f64::NAN).as_millis(), 50);
        assert_eq!(BACKOFF.delay(1, 9.0).as_millis(), 100);
    }
}
