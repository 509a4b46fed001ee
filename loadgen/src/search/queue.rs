//! Queues with known results, for tests: arrivals wait for the first of several servers.

use std::collections::BinaryHeap;

use traces::random::{RngStream, Stream};

/// Distribution of service times.
#[derive(Clone, Copy, Debug)]
pub(super) enum Service {
    /// Exponential: M/M/c.
    Exponential,
    /// Constant: M/D/c.
    Constant,
}

/// A queue with its servers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queue {
    /// Number of servers.
    pub(super) servers: usize,
    /// Distribution of service times.
    pub(super) service: Service,
    /// Mean service time.
    pub(super) mean_s: f64,
}

impl Queue {
    /// Returns the rate above which the queue grows without end.
    pub(super) fn capacity(&self) -> f64 {
        self.servers as f64 / self.mean_s
    }

    /// Simulates Poisson arrivals. Returns arrival, wait and service time of each.
    pub(super) fn run(&self, rate: f64, requests: usize, seed: u64) -> Vec<(f64, f64, f64)> {
        let mut gaps = Stream::new(seed, RngStream::Arrivals);
        let mut services = Stream::new(seed, RngStream::OutputLengths);
        // Times as bits, which have the order of the times, because they are not negative.
        let mut free: BinaryHeap<std::cmp::Reverse<u64>> =
            (0..self.servers).map(|_| std::cmp::Reverse(0)).collect();
        let mut at = 0.0;
        (0..requests)
            .map(|_| {
                at += gaps.exponential() / rate;
                let service = match self.service {
                    Service::Exponential => services.exponential() * self.mean_s,
                    Service::Constant => self.mean_s,
                };
                let first = free.pop().map_or(0.0, |std::cmp::Reverse(bits)| f64::from_bits(bits));
                let begun = first.max(at);
                free.push(std::cmp::Reverse((begun + service).to_bits()));
                (at, begun - at, service)
            })
            .collect()
    }
}
