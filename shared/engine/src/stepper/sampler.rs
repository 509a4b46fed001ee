//! The choice of steps to record in traces: enough to show which requests shared a step, few enough
//! to cost nothing. Pure.

use std::time::{Duration, Instant};

/// Least time between two recorded steps of which the second opens a recorded request: its first
/// step, or a part of its prompt.
const OPENING_GAP: Duration = Duration::from_millis(10);
/// Least time between two other recorded steps.
const GAP: Duration = Duration::from_millis(100);

/// The time of the last recorded step.
#[derive(Debug, Default)]
pub(super) struct StepSampler {
    last: Option<Instant>,
    unrecorded: u32,
}

impl StepSampler {
    /// Decides about a step with recorded requests: returns the number of steps left out since the
    /// last recorded one, or `None` to leave this one out.
    pub(super) fn record(&mut self, now: Instant, opens: bool) -> Option<u32> {
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
        let mut sampler = StepSampler::default();
        let recorded: Vec<u32> = (0..1000)
            .filter_map(|ms| sampler.record(start + Duration::from_millis(ms), false))
            .collect();
        assert_eq!(recorded, [0, 99, 99, 99, 99, 99, 99, 99, 99, 99]);
        let mut sampler = StepSampler::default();
        let recorded =
            (0..100).filter_map(|ms| sampler.record(start + Duration::from_millis(ms), true));
        assert_eq!(recorded.count(), 10);
    }
}
