//! Programs, models and devices that a machine may lack.

use std::fmt::Display;

use crate::harness::{note, skip};

/// Returns the value, or ends the test as ignored with the reason.
///
/// With `TANDEM_REQUIRE=all` in the environment nothing may be skipped: the lack is a failure.
///
/// # Panics
///
/// When `result` is an error, to end the test.
pub fn require<T, E: Display>(name: &str, result: Result<T, E>) -> T {
    found(name, result, is_all_required()).unwrap_or_else(|lack| skip(lack))
}

/// Returns the value, or `None` for a test that goes on without it; the lack is listed after the
/// summary of the suite.
///
/// # Panics
///
/// When `result` is an error and `TANDEM_REQUIRE` is `all`.
pub fn available<T, E: Display>(name: &str, result: Result<T, E>) -> Option<T> {
    found(name, result, is_all_required()).map_err(note).ok()
}

fn is_all_required() -> bool {
    std::env::var_os("TANDEM_REQUIRE").is_some_and(|value| value == "all")
}

fn found<T, E: Display>(name: &str, result: Result<T, E>, all: bool) -> Result<T, String> {
    result.map_err(|reason| {
        assert!(!all, "TANDEM_REQUIRE=all, but {name} failed: {reason}");
        format!("{name}: {reason}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_returned() {
        assert_eq!(found::<_, String>("thing", Ok(7), true), Ok(7));
    }

    #[test]
    fn a_lack_is_named() {
        let lack = found::<u8, _>("thing", Err("none here"), false);
        assert_eq!(lack, Err("thing: none here".to_owned()));
    }

    #[test]
    #[should_panic(expected = "thing failed: none here")]
    fn a_lack_fails_when_all_is_required() {
        let _ = found::<u8, _>("thing", Err("none here"), true);
    }

    #[test]
    #[should_panic(expected = "a test that may be skipped belongs in a suite")]
    fn a_skip_that_nothing_would_show_fails() {
        skip("thing: none here");
    }
}
