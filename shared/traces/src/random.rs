//! Seeded random streams, one per purpose, so that one draw never disturbs another.

use protocol::SplitMix64;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Purpose of random numbers. Each has its own ChaCha stream under one seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RngStream {
    /// Gaps between arrivals.
    Arrivals = 1,
    /// Prompt lengths.
    InputLengths = 2,
    /// Output lengths.
    OutputLengths = 3,
    /// Times inside the quantum of a coarse trace.
    Dequantize = 4,
    /// The order of the token alphabet.
    Alphabet = 5,
    /// Changes of an on/off source.
    States = 6,
    /// Sessions of a trace to keep.
    Thinning = 7,
    /// Think times of users.
    ThinkTimes = 8,
    /// Starts of the sessions of a trace without a common clock.
    SessionStarts = 9,
}

/// Hashes `value` to another number: the first output of SplitMix64, a bijection.
pub fn mix(value: u64) -> u64 {
    SplitMix64::new(value).next_u64()
}

/// A seeded stream of random numbers.
pub struct Stream(ChaCha12Rng);

impl Stream {
    /// Creates the stream of one purpose under `seed`.
    pub fn new(seed: u64, purpose: RngStream) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..15].copy_from_slice(b"loadgen");
        let mut rng = ChaCha12Rng::from_seed(key);
        rng.set_stream(purpose as u64);
        Self(rng)
    }

    /// Creates a stream for one of many independent sources of the same purpose, such as a client.
    pub fn of_source(seed: u64, purpose: RngStream, source: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..15].copy_from_slice(b"loadgen");
        key[16..24].copy_from_slice(&source.to_le_bytes());
        key[24] = 1;
        let mut rng = ChaCha12Rng::from_seed(key);
        rng.set_stream(purpose as u64);
        Self(rng)
    }

    /// Creates a stream under a full key, for content addressed by a digest.
    pub fn keyed(key: [u8; 32]) -> Self {
        Self(ChaCha12Rng::from_seed(key))
    }

    /// Draws a number in `[0, 1)` with 53 random bits.
    pub fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Draws an exponential variate of mean 1.
    pub fn exponential(&mut self) -> f64 {
        -(1.0 - self.unit()).ln()
    }

    /// Draws a variate of `distribution`.
    pub fn sample<D: rand_distr::Distribution<f64>>(&mut self, distribution: &D) -> f64 {
        distribution.sample(&mut self.0)
    }

    /// Draws a number in `0..bound`; 0 if `bound` is 0. The bias is below `bound / 2^64`.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.0.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// Draws a number in `lo..=hi`.
    pub fn between(&mut self, lo: u32, hi: u32) -> u32 {
        lo + self.below(u64::from(hi - lo) + 1) as u32
    }

    /// Shuffles `items`.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.below(i as u64 + 1) as usize;
            items.swap(i, j);
        }
    }
}
