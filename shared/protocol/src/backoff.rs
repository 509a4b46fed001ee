//! The growing delay between tries of something that fails.

use std::time::Duration;

/// An exponential backoff. Pure: the caller counts failures and waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The delay after the first failure.
    pub first: Duration,
    /// The longest delay.
    pub max: Duration,
}

impl Backoff {
    /// Returns the delay after a failure that `earlier` failures in a row came before: it doubles
    /// with each of them, up to the maximum.
    pub fn delay(&self, earlier: u32) -> Duration {
        self.first.saturating_mul(2_u32.saturating_pow(earlier)).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_doubles_up_to_the_maximum() {
        let backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(5) };
        let delays: Vec<u128> = (0..8).map(|earlier| backoff.delay(earlier).as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(backoff.delay(u32::MAX), backoff.max);
    }
}
