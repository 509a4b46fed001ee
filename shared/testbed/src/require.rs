//! Skipping what a machine lacks, in the open.

use std::fmt::Display;

/// The value, or a printed reason for skipping the test that needs it.
///
/// With `TANDEM_REQUIRE=all` in the environment nothing may be skipped: the lack is a failure.
///
/// # Panics
///
/// When `result` is an error and `TANDEM_REQUIRE` is `all`.
pub fn require_or_skip<T, E: Display>(what: &str, result: Result<T, E>) -> Option<T> {
    let all_required = std::env::var_os("TANDEM_REQUIRE").is_some_and(|value| value == "all");
    decide(what, result, all_required)
}

fn decide<T, E: Display>(what: &str, result: Result<T, E>, all_required: bool) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(reason) if all_required => panic!("TANDEM_REQUIRE=all, but {what} failed: {reason}"),
        Err(reason) => {
            eprintln!("skipped: {what}: {reason}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_handed_on() {
        assert_eq!(decide::<_, String>("thing", Ok(7), true), Some(7));
    }

    #[test]
    fn what_is_lacking_skips() {
        assert_eq!(decide::<u8, _>("thing", Err("none here"), false), None);
    }

    #[test]
    #[should_panic(expected = "thing failed: none here")]
    fn what_is_lacking_fails_when_all_is_required() {
        decide::<u8, _>("thing", Err("none here"), true);
    }
}
