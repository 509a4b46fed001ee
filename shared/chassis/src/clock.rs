//! The wall clock in the units of the wire.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Returns the time since the Unix epoch; zero for a clock that is set before it.
pub fn since_epoch(at: SystemTime) -> Duration {
    at.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Returns `at` in milliseconds since the Unix epoch.
pub fn epoch_ms(at: SystemTime) -> u64 {
    u64::try_from(since_epoch(at).as_millis()).unwrap_or(u64::MAX)
}

/// Returns `at` in microseconds since the Unix epoch.
pub fn epoch_us(at: SystemTime) -> u64 {
    u64::try_from(since_epoch(at).as_micros()).unwrap_or(u64::MAX)
}

/// Returns the present time in milliseconds since the Unix epoch.
pub fn now_ms() -> u64 {
    epoch_ms(SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_from_the_epoch_and_never_negative() {
        let at = UNIX_EPOCH + Duration::from_micros(1_700_000_000_123_456);
        assert_eq!((epoch_ms(at), epoch_us(at)), (1_700_000_000_123, 1_700_000_000_123_456));
        let before = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!((epoch_ms(before), epoch_us(before)), (0, 0));
        assert!(now_ms() > 1_700_000_000_000);
    }
}
