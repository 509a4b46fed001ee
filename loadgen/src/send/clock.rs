//! The clock of a run, and the CPU times of its threads.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// A monotonic clock that counts from one instant, which may be in the future.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// Creates a clock that shows 0 after `lead`.
    pub fn starting_in(lead: Duration) -> Self {
        Self { origin: Instant::now() + lead }
    }

    /// Returns the nanoseconds since the start; negative before it.
    pub fn now_ns(&self) -> i64 {
        self.ns_of(Instant::now())
    }

    /// Returns the time of the clock at an instant.
    pub fn ns_of(&self, at: Instant) -> i64 {
        match at.checked_duration_since(self.origin) {
            Some(since) => since.as_nanos() as i64,
            None => -((self.origin - at).as_nanos() as i64),
        }
    }

    /// Returns the instant of the time `ns`, or now if it is past.
    pub fn instant_of(&self, ns: i64) -> Instant {
        let wait = u64::try_from(ns - self.now_ns()).unwrap_or(0);
        Instant::now() + Duration::from_nanos(wait)
    }
}

/// Name of the threads that send and receive, if there are several.
pub const SENDER_THREADS: &str = "loadgen-send";

/// Time that each sending thread was on a CPU, and time that it waited for one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ThreadTimes {
    /// Nanoseconds on a CPU, and nanoseconds of waiting for one, by thread id.
    by_id: BTreeMap<String, (u64, u64)>,
}

impl ThreadTimes {
    /// Reads the times of the threads named [`SENDER_THREADS`], or of the current thread if there
    /// are none. Empty where `/proc` does not have them.
    pub fn of_senders() -> Self {
        let mut by_id = BTreeMap::new();
        let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        for path in tasks.map(|task| task.path()) {
            let is_sender = std::fs::read_to_string(path.join("comm"))
                .is_ok_and(|name| name.trim_end() == SENDER_THREADS);
            if is_sender && let Some(times) = schedstat(&path) {
                by_id.insert(path.to_string_lossy().into_owned(), times);
            }
        }
        if by_id.is_empty()
            && let Some(times) = schedstat(Path::new("/proc/thread-self"))
        {
            by_id.insert(String::new(), times);
        }
        Self { by_id }
    }

    /// Returns the largest share of the time until `later`, `span_ns` afterwards, that a thread was
    /// on a CPU, and that a thread waited for one.
    pub fn until(&self, later: &Self, span_ns: i64) -> (Option<f64>, Option<f64>) {
        let mut parts = (None, None);
        for (id, (ran, waited)) in &self.by_id {
            let Some((ran_later, waited_later)) = later.by_id.get(id) else { continue };
            let part =
                |from: u64, to: u64| Some(to.saturating_sub(from) as f64 / span_ns.max(1) as f64);
            parts.0 = max(parts.0, part(*ran, *ran_later));
            parts.1 = max(parts.1, part(*waited, *waited_later));
        }
        parts
    }
}

fn max(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    one.into_iter().chain(other).reduce(f64::max)
}

/// Reads the time on a CPU and the time of waiting for one of the thread at `path`.
fn schedstat(path: &Path) -> Option<(u64, u64)> {
    let text = std::fs::read_to_string(path.join("schedstat")).ok()?;
    let mut numbers = text.split_whitespace().map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// Returns the CPU seconds of this process, where `/proc` has them.
pub fn cpu_seconds() -> Option<f64> {
    cpu_of_stat(&std::fs::read_to_string("/proc/self/stat").ok()?)
}

/// Returns the CPU seconds of another process, where `/proc` has them.
pub fn cpu_seconds_of(pid: u32) -> Option<f64> {
    cpu_of_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Parses user and system time of a `/proc/…/stat` line. Linux has 100 ticks per second.
fn cpu_of_stat(stat: &str) -> Option<f64> {
    // The name in parentheses may contain anything, so the fields count from its end.
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
    fn the_busiest_thread_counts() {
        let times = |all: [(&str, u64, u64); 2]| {
            let by_id = all.into_iter().map(|(id, ran, waited)| (id.to_owned(), (ran, waited)));
            ThreadTimes { by_id: by_id.collect() }
        };
        let before = times([("1", 100, 0), ("2", 500, 50)]);
        let after = times([("1", 900, 100), ("2", 700, 350)]);
        assert_eq!(before.until(&after, 1000), (Some(0.8), Some(0.3)));
        assert_eq!(before.until(&ThreadTimes::default(), 1000), (None, None));
    }

    #[test]
    fn a_clock_may_start_ahead() {
        let clock = Clock::starting_in(Duration::from_secs(3600));
        assert!(clock.now_ns() < 0);
        assert!(Clock::starting_in(Duration::ZERO).now_ns() >= 0);
    }
}
