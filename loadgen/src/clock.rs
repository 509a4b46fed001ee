//! The run's clock: nanoseconds from its start, from the monotonic clock of this process.

use std::time::{Duration, Instant};

/// Counts from one instant, which may lie ahead.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that shows 0 after `lead`.
    pub fn starting_in(lead: Duration) -> Self {
        Self { origin: Instant::now() + lead }
    }

    /// Nanoseconds since the start; negative before it.
    pub fn now_ns(&self) -> i64 {
        self.ns_of(Instant::now())
    }

    /// What the clock shows at an instant.
    pub fn ns_of(&self, at: Instant) -> i64 {
        match at.checked_duration_since(self.origin) {
            Some(since) => since.as_nanos() as i64,
            None => -((self.origin - at).as_nanos() as i64),
        }
    }

    /// The instant at which it shows `ns`, now or later.
    pub fn instant_of(&self, ns: i64) -> Instant {
        let wait = u64::try_from(ns - self.now_ns()).unwrap_or(0);
        Instant::now() + Duration::from_nanos(wait)
    }
}

/// CPU seconds this process has used, where `/proc` tells.
pub fn cpu_seconds() -> Option<f64> {
    cpu_of_stat(&std::fs::read_to_string("/proc/self/stat").ok()?)
}

/// User and system time of a `/proc/…/stat` line, whose ticks are 100 a second on Linux.
fn cpu_of_stat(stat: &str) -> Option<f64> {
    // The name in parentheses may hold anything; the fields are counted from behind it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some((ticks(11)? + ticks(12)?) as f64 / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let stat = "12 (a) b) R 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 2 0 99";
        assert_eq!(cpu_of_stat(stat), Some(3.0));
        assert_eq!(cpu_of_stat("12 (a"), None);
    }

    #[test]
    fn a_clock_may_start_ahead() {
        let clock = Clock::starting_in(Duration::from_secs(3600));
        assert!(clock.now_ns() < 0);
        assert!(Clock::starting_in(Duration::ZERO).now_ns() >= 0);
    }
}
