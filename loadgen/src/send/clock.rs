//! The clock of a run, and the CPU times of its threads.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use procfs::ProcResult;
use procfs::process::{Process, Task};

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
    by_id: BTreeMap<i32, (u64, u64)>,
}

impl ThreadTimes {
    /// Reads the times of the threads named [`SENDER_THREADS`], or of the current thread if there
    /// are none. Empty where `/proc` does not have them.
    pub fn of_senders() -> Self {
        Self { by_id: sender_times().unwrap_or_default() }
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

fn sender_times() -> ProcResult<BTreeMap<i32, (u64, u64)>> {
    let process = Process::myself()?;
    let mut senders: Vec<Task> = process.tasks()?.flatten().collect();
    // A thread may end before it is read.
    senders.retain(|task| task.stat().is_ok_and(|stat| stat.comm == SENDER_THREADS));
    if senders.is_empty() {
        senders.push(process.task_from_tid(rustix::thread::gettid().as_raw_pid())?);
    }
    let times = senders.into_iter().filter_map(|task| {
        let times = task.schedstat().ok()?;
        Some((task.tid, (times.sum_exec_runtime, times.run_delay)))
    });
    Ok(times.collect())
}

/// Returns the CPU seconds of this process, where `/proc` has them.
pub fn cpu_seconds() -> Option<f64> {
    cpu_of(&Process::myself().ok()?)
}

/// Returns the CPU seconds of another process, where `/proc` has them.
pub fn cpu_seconds_of(pid: u32) -> Option<f64> {
    cpu_of(&Process::new(pid.try_into().ok()?).ok()?)
}

fn cpu_of(process: &Process) -> Option<f64> {
    let stat = process.stat().ok()?;
    Some((stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_that_of_the_process() {
        let before = cpu_seconds().unwrap();
        assert!(cpu_seconds_of(std::process::id()).unwrap() >= before);
        assert_eq!(cpu_seconds_of(0), None);
    }

    #[test]
    fn the_current_thread_counts_where_no_thread_is_a_sender() {
        let own_id = rustix::thread::gettid().as_raw_pid();
        assert!(ThreadTimes::of_senders().by_id.keys().eq([&own_id]));
    }

    #[test]
    fn the_busiest_thread_counts() {
        let times = |all: [_; 2]| ThreadTimes { by_id: BTreeMap::from(all) };
        let before = times([(1, (100, 0)), (2, (500, 50))]);
        let after = times([(1, (900, 100)), (2, (700, 350))]);
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
