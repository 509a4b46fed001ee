//! Which steps are told for traces: enough to see what a request shared its steps with, few enough
//! to cost nothing. Pure.

use std::time::{Duration, Instant};

/// Between two steps of which one opens a recorded request: its first, or a part of its prompt.
const OPENING_GAP: Duration = Duration::from_millis(10);
/// Between two steps that only go on.
const GAP: Duration = Duration::from_millis(100);

/// Remembers when a step was told last.
#[derive(Debug, Default)]
pub(super) struct Watch {
    last: Option<Instant>,
    unrecorded: u32,
}

impl Watch {
    /// Takes note of a step with recorded requests; when it is to be told, how many were not since
    /// the last.
    pub(super) fn step(&mut self, now: Instant, opens: bool) -> Option<u32> {
        let gap = if opens { OPENING_GAP } else { GAP };
        if self.last.is_some_and(|last| now.duration_since(last) < gap) {
            self.unrecorded += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.unrecorded))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_steps_are_thinned_and_counted() {
        let start = Instant::now();
        let mut watch = Watch::default();
        let told: Vec<u32> = (0..1000)
            .filter_map(|ms| watch.step(start + Duration::from_millis(ms), false))
            .collect();
        assert_eq!(told, [0, 99, 99, 99, 99, 99, 99, 99, 99, 99]);
        let mut watch = Watch::default();
        let told = (0..100).filter_map(|ms| watch.step(start + Duration::from_millis(ms), true));
        assert_eq!(told.count(), 10);
    }
}
