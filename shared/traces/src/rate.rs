//! How many requests a second are offered over time, as a clock that runs fast where many are.

use crate::random::Stream;

/// A rate over time.
#[derive(Clone, Debug, PartialEq)]
pub enum Rate {
    /// Always this many requests per second.
    Flat(f64),
    /// A sine around the mean, beginning there and rising.
    Sine {
        /// Requests per second.
        mean: f64,
        /// How far it swings, as a part of the mean, up to 1.
        swing: f64,
        /// Seconds of one swing.
        period_s: f64,
    },
    /// Step by step.
    Steps(Steps),
    /// Bursts and silence in turns, both of exponential length.
    OnOff {
        /// Requests per second over both.
        mean: f64,
        /// Mean seconds of a burst.
        on_s: f64,
        /// Mean seconds of silence.
        off_s: f64,
    },
}

/// Rates that hold from their start to the next one's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Steps {
    /// Seconds and requests per second, ascending in time from 0.
    pub steps: Vec<(f64, f64)>,
    /// When the last one ends.
    pub end_s: f64,
}

impl Rate {
    /// The mean rate, which scaling keeps the shape of.
    pub fn is_sound(&self) -> bool {
        let positive = |x: f64| x.is_finite() && x > 0.0;
        match self {
            Self::Flat(mean) => positive(*mean),
            Self::Sine { mean, swing, period_s } => {
                positive(*mean) && (0.0..=1.0).contains(swing) && positive(*period_s)
            }
            Self::Steps(steps) => steps.total() > 0.0,
            Self::OnOff { mean, on_s, off_s } => {
                positive(*mean) && positive(*on_s) && positive(*off_s)
            }
        }
    }
}

impl Steps {
    /// Expected requests up to the end.
    pub fn total(&self) -> f64 {
        (0..self.steps.len())
            .map(|at| self.steps[at].1 * (self.end_of(at) - self.steps[at].0))
            .sum()
    }

    /// Until when the step at `at` holds.
    fn end_of(&self, at: usize) -> f64 {
        self.steps.get(at + 1).map_or(self.end_s, |next| next.0)
    }
}

/// Tells when a number of requests is expected to have come. Questions must ascend.
pub struct Clock {
    rate: Rate,
    stream: Stream,
    /// The step of `Steps` and of `OnOff` that has been reached.
    step: usize,
    /// Where that step begins: seconds, and requests expected by then.
    start: (f64, f64),
    /// Where it ends, and its rate.
    end: (f64, f64),
}

impl Clock {
    /// A clock for `rate`; `stream` decides when an on/off source changes.
    pub fn new(rate: Rate, mut stream: Stream) -> Self {
        let (start, end) = match &rate {
            Rate::Steps(steps) => {
                let first = steps.steps.first().copied().unwrap_or((0.0, 0.0));
                ((first.0, 0.0), (steps.end_of(0), first.1))
            }
            Rate::OnOff { mean, on_s, off_s } => {
                let begins_on = stream.unit() < on_s / (on_s + off_s);
                let length = if begins_on { on_s } else { off_s } * stream.exponential();
                let burst = mean * (on_s + off_s) / on_s;
                ((0.0, 0.0), (length, if begins_on { burst } else { 0.0 }))
            }
            Rate::Flat(_) | Rate::Sine { .. } => ((0.0, 0.0), (f64::INFINITY, 0.0)),
        };
        Self { rate, stream, step: 0, start, end }
    }

    /// When `expected` requests are expected to have come, in seconds; none if they never are.
    pub fn when(&mut self, expected: f64) -> Option<f64> {
        match self.rate {
            Rate::Flat(mean) => Some(expected / mean),
            Rate::Sine { mean, swing, period_s } => Some(sine(expected / mean, swing, period_s)),
            Rate::Steps(_) | Rate::OnOff { .. } => {
                while self.start.1 + (self.end.0 - self.start.0) * self.end.1 < expected {
                    self.start.1 += (self.end.0 - self.start.0) * self.end.1;
                    self.start.0 = self.end.0;
                    self.end = self.next_step()?;
                }
                let into = (expected - self.start.1) / self.end.1;
                Some(self.start.0 + if into.is_finite() { into } else { 0.0 })
            }
        }
    }

    /// The step that has been reached.
    pub fn step(&self) -> usize {
        self.step
    }

    fn next_step(&mut self) -> Option<(f64, f64)> {
        self.step += 1;
        match &self.rate {
            Rate::Steps(steps) => {
                let (_, rate) = *steps.steps.get(self.step)?;
                Some((steps.end_of(self.step), rate))
            }
            Rate::OnOff { mean, on_s, off_s } => {
                let was_on = self.end.1 > 0.0;
                let (mean_s, rate) =
                    if was_on { (off_s, 0.0) } else { (on_s, mean * (on_s + off_s) / on_s) };
                Some((self.start.0 + mean_s * self.stream.exponential(), rate))
            }
            Rate::Flat(_) | Rate::Sine { .. } => None,
        }
    }
}

/// Solves `t + swing · period / 2π · (1 − cos(2πt / period)) = at` for `t` by halving.
fn sine(at: f64, swing: f64, period_s: f64) -> f64 {
    let turn = std::f64::consts::TAU / period_s;
    let (mut lo, mut hi) = (at - 2.0 * swing / turn, at);
    for _ in 0..60 {
        let t = f64::midpoint(lo, hi);
        if t + swing / turn * (1.0 - (turn * t).cos()) < at { lo = t } else { hi = t }
    }
    hi
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Cause;

    fn clock(rate: Rate) -> Clock {
        Clock::new(rate, Stream::new(1, Cause::States))
    }

    #[test]
    fn steps_hold_until_the_next_one_and_end() {
        let steps = vec![(0.0, 2.0), (10.0, 0.0), (20.0, 4.0)];
        let steps = Steps { steps, end_s: 30.0 };
        assert_eq!(steps.total(), 60.0);
        let mut clock = clock(Rate::Steps(steps));
        let times: Vec<Option<f64>> = [1.0, 20.0, 21.0, 60.0, 61.0].map(|n| clock.when(n)).to_vec();
        assert_eq!(times, [Some(0.5), Some(10.0), Some(20.25), Some(30.0), None]);
    }

    #[test]
    fn a_sine_has_its_mean_over_a_period_and_its_peak_in_the_first_half() {
        let rate = || Rate::Sine { mean: 5.0, swing: 0.8, period_s: 100.0 };
        let end = clock(rate()).when(500.0).unwrap();
        assert!((end - 100.0).abs() < 1e-6, "{end}");
        // The integral of the rate over the first half is 250 + 5 · 0.8 · 100 / π.
        let half = clock(rate()).when(250.0 + 400.0 / std::f64::consts::PI).unwrap();
        assert!((half - 50.0).abs() < 1e-6, "{half}");
    }

    #[test]
    fn an_on_off_source_keeps_its_mean_rate() {
        let mut clock = clock(Rate::OnOff { mean: 3.0, on_s: 2.0, off_s: 8.0 });
        let end_s = clock.when(300_000.0).unwrap();
        assert!((end_s / 100_000.0 - 1.0).abs() < 0.03, "{end_s}");
        assert!(clock.step() > 15_000, "{} changes", clock.step());
    }
}
