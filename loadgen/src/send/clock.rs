//! The run's clock: nanoseconds from its start, from the monotonic clock of this process.

use std::collections::BTreeMap;
use std::path::Path;
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

/// The name of the threads that send and receive, where there are several.
pub const SENDER_THREADS: &str = "loadgen-send";

/// How long each sending thread was on a CPU, and how long it could have been and was not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ThreadTimes {
    /// By thread id: nanoseconds on a CPU, nanoseconds of waiting for one.
    by_id: BTreeMap<String, (u64, u64)>,
}

impl ThreadTimes {
    /// Of the threads named [`SENDER_THREADS`]; where there is none, of the present one. Empty
    /// where `/proc` does not tell.
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

    /// Until `later`, `span_ns` afterwards: the largest part of the time that one of them was on a
    /// CPU, and that one of them waited for one.
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

/// Time on a CPU and time of waiting for one, of the thread at `path`.
fn schedstat(path: &Path) -> Option<(u64, u64)> {
    let text = std::fs::read_to_string(path.join("schedstat")).ok()?;
    let mut numbers = text.split_whitespace().map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// CPU seconds this process has used, where `/proc` tells.
pub fn cpu_seconds() -> Option<f64> {
    cpu_of_stat(&std::fs::read_to_string("/proc/self/stat").ok()?)
}

/// CPU seconds that another process has used.
pub fn cpu_seconds_of(pid: u32) -> Option<f64> {
    cpu_of_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
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
