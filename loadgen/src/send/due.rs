//! The queue of due requests: pure, so that a late generator can be tested without waiting.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use bytes::Bytes;

/// A request with its body and intended time.
#[derive(Debug)]
pub(crate) struct Job {
    /// Index in the plan.
    pub(crate) index: usize,
    /// Intended time.
    pub(crate) intended_ns: i64,
    /// Body, or the reason that it could not be made.
    pub(crate) body: Result<Bytes, String>,
}

/// The next step of the pacing thread.
#[derive(Debug)]
pub(crate) enum Step {
    /// Hand out this job.
    HandOut(Job),
    /// Wait this long, unless something changes.
    Wait(i64),
    /// Wait until something changes.
    Idle,
    /// End: no job will follow.
    Over,
}

/// A queue of jobs by intended time, then by index in the plan.
#[derive(Debug, Default)]
pub(crate) struct DueQueue {
    heap: BinaryHeap<Reverse<Entry>>,
    /// Scheduled jobs that are made and not yet handed out.
    ahead: usize,
    /// Requests of the plan that are neither handed out nor dropped.
    expected: usize,
}

#[derive(Debug)]
struct Entry {
    job: Job,
    scheduled: bool,
}

impl Entry {
    fn key(&self) -> (i64, usize) {
        (self.job.intended_ns, self.job.index)
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl DueQueue {
    /// Creates a queue that expects `expected` requests.
    pub(crate) fn new(expected: usize) -> Self {
        Self { expected, ..Self::default() }
    }

    /// Adds a job. A `scheduled` job counts as made ahead of its time.
    pub(crate) fn push(&mut self, job: Job, scheduled: bool) {
        self.ahead += usize::from(scheduled);
        self.heap.push(Reverse(Entry { job, scheduled }));
    }

    /// Returns the number of scheduled jobs in the queue.
    pub(crate) fn ahead(&self) -> usize {
        self.ahead
    }

    /// Stops expecting `count` requests.
    pub(crate) fn drop_waiting(&mut self, count: usize) {
        self.expected -= count;
    }

    /// Returns the next step at `now_ns`. A late job is handed out at once; no job is ever dropped.
    pub(crate) fn step(&mut self, now_ns: i64) -> Step {
        let Some(Reverse(next)) = self.heap.peek() else {
            return if self.expected == 0 { Step::Over } else { Step::Idle };
        };
        let wait_ns = next.job.intended_ns - now_ns;
        if wait_ns > 0 {
            return Step::Wait(wait_ns);
        }
        match self.heap.pop() {
            Some(Reverse(entry)) => {
                self.ahead -= usize::from(entry.scheduled);
                self.expected -= 1;
                Step::HandOut(entry.job)
            }
            None => Step::Idle,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(index: usize, intended_ns: i64) -> Job {
        Job { index, intended_ns, body: Ok(Bytes::new()) }
    }

    /// Indices of the jobs that are handed out at `now_ns`.
    fn out(queue: &mut DueQueue, now_ns: i64) -> Vec<usize> {
        let due = std::iter::from_fn(|| match queue.step(now_ns) {
            Step::HandOut(job) => Some(job.index),
            _ => None,
        });
        due.collect()
    }

    #[test]
    fn what_is_late_goes_out_at_once_in_order_and_keeps_its_time() {
        let mut queue = DueQueue::new(4);
        for (index, intended_ns) in [(0, 10), (2, 30), (1, 20), (3, 90)] {
            queue.push(job(index, intended_ns), true);
        }
        assert!(matches!(queue.step(4), Step::Wait(6)));
        // The thread was delayed until 50: three jobs are late, none is dropped or moved.
        match queue.step(50) {
            Step::HandOut(job) => assert_eq!((job.index, job.intended_ns), (0, 10)),
            other => panic!("{other:?}"),
        }
        assert_eq!(out(&mut queue, 50), [1, 2]);
        assert!(matches!(queue.step(50), Step::Wait(40)));
        assert_eq!((out(&mut queue, 90), queue.ahead()), (vec![3], 0));
        assert!(matches!(queue.step(90), Step::Over));
    }

    #[test]
    fn a_follow_up_goes_before_what_is_scheduled_later_and_is_waited_for() {
        let mut queue = DueQueue::new(3);
        queue.push(job(0, 10), true);
        queue.push(job(5, 100), true);
        queue.push(job(9, 40), false);
        assert_eq!(queue.ahead(), 2);
        assert_eq!(out(&mut queue, 60), [0, 9]);
        assert_eq!(out(&mut queue, 100), [5]);
        let mut waiting = DueQueue::new(2);
        assert!(matches!(waiting.step(0), Step::Idle));
        waiting.drop_waiting(2);
        assert!(matches!(waiting.step(0), Step::Over));
    }
}
