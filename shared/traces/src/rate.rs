//! Request rates over time, as a clock that runs faster where the rate is higher.

use crate::random::Stream;

/// A request rate over time.
#[derive(Clone, Debug, PartialEq)]
pub enum Rate {
    /// Constant, in requests per second.
    Flat(f64),
    /// A sine around the mean, starting at the mean and rising.
    Sine {
        /// Mean requests per second.
        mean: f64,
        /// Amplitude as a share of the mean, up to 1.
        swing: f64,
        /// Period, in seconds.
        period_s: f64,
    },
    /// A piecewise constant rate.
    Steps(Steps),
    /// Alternating bursts and silence, both of exponential length.
    OnOff {
        /// Mean requests per second over bursts and silence.
        mean: f64,
        /// Mean length of a burst, in seconds.
        on_s: f64,
        /// Mean length of silence, in seconds.
        off_s: f64,
    },
}

/// A piecewise constant rate: each rate holds until the next one starts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Steps {
    /// Start in seconds and requests per second, ascending in time from 0.
    pub steps: Vec<(f64, f64)>,
    /// End of the last step.
    pub end_s: f64,
}

impl Rate {
    /// Returns whether all parameters are in range.
    pub fn is_valid(&self) -> bool {
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
    /// Returns the expected number of requests until the end.
    pub fn total(&self) -> f64 {
        (0..self.steps.len())
            .map(|at| self.steps[at].1 * (self.end_of(at) - self.steps[at].0))
            .sum()
    }

    /// Returns the end of the step at `at`.
    fn end_of(&self, at: usize) -> f64 {
        self.steps.get(at + 1).map_or(self.end_s, |next| next.0)
    }
}

/// A clock that gives the time at which a number of requests is expected. Queries must ascend.
pub struct Clock {
    rate: Rate,
    stream: Stream,
    /// Current step of `Steps` and of `OnOff`.
    step: usize,
    /// Start of the current step: seconds, and requests expected by then.
    start: (f64, f64),
    /// End of the current step in seconds, and its rate.
    end: (f64, f64),
}

impl Clock {
    /// Creates a clock for `rate`. `stream` draws the lengths of an on/off source.
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

    /// Returns the time in seconds by which `expected` requests are expected; `None` if that is
    /// never.
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

    /// Returns the index of the current step.
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

/// Solves `t + swing · period / 2π · (1 − cos(2πt / period)) = at` for `t` by bisection.
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
    use crate::random::RngStream;

    fn clock(rate: Rate) -> Clock {
        Clock::new(rate, Stream::new(1, RngStream::States))
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
