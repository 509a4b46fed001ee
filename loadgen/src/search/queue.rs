//! Servers with known queues, for tests: arrivals wait for the first of several servers.

use std::collections::BinaryHeap;

use traces::random::{Cause, Stream};

/// How long a request is served.
#[derive(Clone, Copy, Debug)]
pub(super) enum Service {
    /// Exponentially distributed: M/M/c.
    Exponential,
    /// Always the same: M/D/c.
    Constant,
}

/// A server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queue {
    /// How many serve at once.
    pub(super) servers: usize,
    /// How long they take …
    pub(super) service: Service,
    /// … on average.
    pub(super) mean_s: f64,
}

impl Queue {
    /// The rate above which no queue ends.
    pub(super) fn capacity(&self) -> f64 {
        self.servers as f64 / self.mean_s
    }

    /// Poisson arrivals: when each came, waited how long, was served how long.
    pub(super) fn run(&self, rate: f64, requests: usize, seed: u64) -> Vec<(f64, f64, f64)> {
        let mut gaps = Stream::new(seed, Cause::Arrivals);
        let mut services = Stream::new(seed, Cause::OutputLengths);
        // Times as ordered bits: they are not negative.
        let mut free: BinaryHeap<std::cmp::Reverse<u64>> =
            (0..self.servers).map(|_| std::cmp::Reverse(0)).collect();
        let mut at = 0.0;
        let request = |_| {
            at += gaps.exponential() / rate;
            let service = match self.service {
                Service::Exponential => services.exponential() * self.mean_s,
                Service::Constant => self.mean_s,
            };
            let first = free.pop().map_or(0.0, |std::cmp::Reverse(bits)| f64::from_bits(bits));
            let begun = first.max(at);
            free.push(std::cmp::Reverse((begun + service).to_bits()));
            (at, begun - at, service)
        };
        (0..requests).map(request).collect()
    }
}
