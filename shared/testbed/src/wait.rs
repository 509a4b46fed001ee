//! Waiting for something that another task, thread or process brings about.

use std::time::{Duration, Instant};

/// Longest wait before a test gives up: generous, because a busy machine is slow but not broken.
pub const PATIENCE: Duration = Duration::from_secs(30);

const POLL_EVERY: Duration = Duration::from_millis(5);
const POLL_PROCESS_EVERY: Duration = Duration::from_millis(50);

/// Polls `holds` until it returns true.
///
/// # Panics
///
/// When it is still false after [`PATIENCE`]; the message names `expectation`.
pub async fn eventually(expectation: &str, mut holds: impl AsyncFnMut() -> bool) {
    let polling = async {
        while !holds().await {
            tokio::time::sleep(POLL_EVERY).await;
        }
    };
    soon(expectation, polling).await;
}

/// Returns the output of `future`.
///
/// # Panics
///
/// When it is not ready within [`PATIENCE`]; the message names `expectation`.
pub async fn soon<F: Future>(expectation: &str, future: F) -> F::Output {
    let output = tokio::time::timeout(PATIENCE, future).await;
    output.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {expectation}"))
}

/// Blocks until `attempt` succeeds and returns its value: for tests of whole processes.
///
/// # Panics
///
/// When it still fails after `limit`; the message ends with the last error.
pub fn wait_for<T>(limit: Duration, attempt: impl FnMut() -> Result<T, String>) -> T {
    try_for(limit, attempt).unwrap_or_else(|error| panic!("not within {limit:?}: {error}"))
}

/// Blocks until `attempt` succeeds and returns its value, or the last error after `limit`: for
/// destructors, which must not panic.
pub fn try_for<T>(
    limit: Duration,
    mut attempt: impl FnMut() -> Result<T, String>,
) -> Result<T, String> {
    let deadline = Instant::now() + limit;
    loop {
        match attempt() {
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => std::thread::sleep(POLL_PROCESS_EVERY),
            success => return success,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn polling_ends_when_the_condition_holds() {
        let mut polls = 0;
        eventually("three polls", async || {
            polls += 1;
            polls == 3
        })
        .await;
        assert_eq!(polls, 3);
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "not within 30s: pigs fly")]
    async fn a_condition_that_never_holds_is_named() {
        eventually("pigs fly", async || false).await;
    }

    #[test]
    fn a_value_is_returned_as_soon_as_an_attempt_succeeds() {
        let mut attempts = 0;
        let value = wait_for(PATIENCE, || {
            attempts += 1;
            if attempts < 2 { Err("too early".to_owned()) } else { Ok(attempts) }
        });
        assert_eq!(value, 2);
    }

    #[test]
    #[should_panic(expected = "not within 0ns: too early")]
    fn the_last_error_is_shown() {
        wait_for::<()>(Duration::ZERO, || Err("too early".to_owned()));
    }
}
