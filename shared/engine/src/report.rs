//! The report that the step loop publishes some times a second, for presence and metrics.

use std::time::Duration;

use protocol::{PoolState, Speed};
use scheduling::planner::Load;

/// The state of a step loop at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// The pages by state.
    pub pool: PoolState,
    /// The waiting and running sequences.
    pub load: Load,
    /// The fitted speed.
    pub speed: Speed,
    /// The time of all steps since the start, by part.
    pub times: StepTimes,
}

/// The time of all steps so far, by part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepTimes {
    /// Steps that computed something.
    pub steps: u64,
    /// Steps in which the model failed.
    pub failed: u64,
    /// From draining the commands to the last export.
    pub whole: Duration,
    /// Within the model.
    pub forward: Duration,
    /// Copying complete blocks out for the store.
    pub export: Duration,
}

impl StepTimes {
    /// Returns the difference to an earlier report.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            steps: self.steps.saturating_sub(before.steps),
            failed: self.failed.saturating_sub(before.failed),
            whole: self.whole.saturating_sub(before.whole),
            forward: self.forward.saturating_sub(before.forward),
            export: self.export.saturating_sub(before.export),
        }
    }

    /// Returns the share of the time outside the model, 0 to 1; `None` before the first step.
    pub fn overhead(&self) -> Option<f64> {
        let outside = self.whole.saturating_sub(self.forward);
        (!self.whole.is_zero()).then(|| outside.as_secs_f64() / self.whole.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overhead_is_the_share_outside_the_model() {
        let us = Duration::from_micros;
        let early =
            StepTimes { steps: 1, failed: 0, whole: us(500), forward: us(100), export: us(0) };
        let late =
            StepTimes { steps: 3, failed: 0, whole: us(1500), forward: us(1075), export: us(10) };
        assert_eq!(late.since(&early).overhead(), Some(0.025));
        assert_eq!(StepTimes::default().overhead(), None);
    }
}
