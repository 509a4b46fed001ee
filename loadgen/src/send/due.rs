//! What is due when: pure, so that a late generator can be tested without waiting.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use bytes::Bytes;

/// A request whose time has come.
#[derive(Debug)]
pub(crate) struct Job {
    /// Its place in the plan.
    pub(crate) index: usize,
    /// When it should be sent.
    pub(crate) intended_ns: i64,
    /// Its body, or why there is none.
    pub(crate) body: Result<Bytes, String>,
}

/// What to do now.
#[derive(Debug)]
pub(crate) enum Step {
    /// Hand this one out.
    HandOut(Job),
    /// Wait this long, unless something changes.
    Wait(i64),
    /// Wait until something changes.
    Idle,
    /// Nothing will come any more.
    Over,
}

/// Jobs by the time they are due; those of the same time by their place in the plan.
#[derive(Debug, Default)]
pub(crate) struct DueQueue {
    heap: BinaryHeap<Reverse<Entry>>,
    /// Jobs of the plan's own schedule that are made and not yet handed out.
    ahead: usize,
    /// Requests of the plan that are neither handed out nor given up.
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
    /// A queue that will see `expected` requests.
    pub(crate) fn new(expected: usize) -> Self {
        Self { expected, ..Self::default() }
    }

    /// Adds a job; a `scheduled` one is counted as made ahead of its time.
    pub(crate) fn push(&mut self, job: Job, scheduled: bool) {
        self.ahead += usize::from(scheduled);
        self.heap.push(Reverse(Entry { job, scheduled }));
    }

    /// How many scheduled jobs wait.
    pub(crate) fn ahead(&self) -> usize {
        self.ahead
    }

    /// Gives up `count` requests that were expected.
    pub(crate) fn give_up(&mut self, count: usize) {
        self.expected -= count;
    }

    /// What to do at `now_ns`. What is late goes out at once; nothing is ever left out.
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

    /// What is handed out at `now_ns`.
    fn out(queue: &mut DueQueue, now_ns: i64) -> Vec<usize> {
        let next = || match queue.step(now_ns) {
            Step::HandOut(job) => Some(job.index),
            _ => None,
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn what_is_late_goes_out_at_once_in_order_and_keeps_its_time() {
        let mut queue = DueQueue::new(4);
        for (index, intended_ns) in [(0, 10), (2, 30), (1, 20), (3, 90)] {
            queue.push(job(index, intended_ns), true);
        }
        assert!(matches!(queue.step(4), Step::Wait(6)));
        // The thread was held up until 50: three are late, none is left out or moved.
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
        waiting.give_up(2);
        assert!(matches!(waiting.step(0), Step::Over));
    }
}
