//! The delay before a service that ended is started again.

use std::time::Duration;

use protocol::Backoff;

const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(30) };
/// A service that lived this long is taken for healthy.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// Counts the failures in a row of one service.
#[derive(Debug, Default)]
pub(super) struct Restarts {
    failures: u32,
}

impl Restarts {
    /// The wait after a life of `uptime`: 1 s, doubling up to 30 s, from the start again after a
    /// minute of health.
    pub(super) fn after(&mut self, uptime: Duration) -> Duration {
        if uptime >= HEALTHY_AFTER {
            self.failures = 0;
        }
        let wait = BACKOFF.delay(self.failures);
        self.failures = self.failures.saturating_add(1);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit_and_start_again_after_a_minute() {
        let mut restarts = Restarts::default();
        let waits: Vec<u64> =
            (0..7).map(|_| restarts.after(Duration::from_secs(2)).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(restarts.after(Duration::from_secs(60)).as_secs(), 1);
        assert_eq!(restarts.after(Duration::ZERO).as_secs(), 2);
    }

    #[test]
    fn a_long_row_of_failures_does_not_overflow() {
        let mut restarts = Restarts { failures: u32::MAX };
        assert_eq!(restarts.after(Duration::ZERO), BACKOFF.max);
    }
}
