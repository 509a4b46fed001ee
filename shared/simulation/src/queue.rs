//! Virtual time: what happens next is what is due first, then what was scheduled first.

use std::collections::BTreeMap;

/// Events by due time in microseconds; ties keep the order of scheduling.
#[derive(Clone, Debug)]
pub(crate) struct EventQueue<T> {
    now_us: u64,
    scheduled: u64,
    events: BTreeMap<(u64, u64), T>,
}

impl<T> EventQueue<T> {
    pub(crate) fn new() -> Self {
        Self { now_us: 0, scheduled: 0, events: BTreeMap::new() }
    }

    pub(crate) fn now_us(&self) -> u64 {
        self.now_us
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.now_us / 1_000
    }

    /// Schedules `event` to happen `after_us` from now.
    pub(crate) fn after(&mut self, after_us: u64, event: T) {
        self.events.insert((self.now_us + after_us, self.scheduled), event);
        self.scheduled += 1;
    }

    /// Moves time to the next event and takes it.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let ((at_us, _), event) = self.events.pop_first()?;
        self.now_us = at_us;
        Some(event)
    }
}
