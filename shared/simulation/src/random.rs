//! A seeded stream of random numbers (SplitMix64).

use protocol::SplitMix64;

/// Every draw depends on the seed and the number of draws before it, and on nothing else.
#[derive(Clone, Debug)]
pub(crate) struct Random(SplitMix64);

impl Random {
    /// The stream of `cause` under `seed`: draws for one cause do not disturb those of another.
    pub(crate) fn new(seed: u64, cause: u64) -> Self {
        let mut stream = Self(SplitMix64::new(seed ^ cause.wrapping_mul(0xa076_1d64_78bd_642f)));
        stream.next();
        stream
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Draws a number in `[0, 1)`.
    pub(crate) fn unit(&mut self) -> f64 {
        self.0.unit()
    }

    /// A number in `low..=high`.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    /// An exponential variate of the given mean.
    pub(crate) fn exponential(&mut self, mean: f64) -> f64 {
        -(1.0 - self.unit()).ln() * mean
    }
}
