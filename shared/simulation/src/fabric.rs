//! The network between the parties: delay, repetition, loss.

use crate::message::Envelope;
use crate::queue::EventQueue;
use crate::random::Random;

/// Delays and losses of messages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Network {
    /// Shortest way, in microseconds.
    pub delay_min_us: u64,
    /// Longest way; messages overtake one another within this span.
    pub delay_max_us: u64,
    /// Share of messages that arrive twice.
    pub repeated: f64,
    /// Share of messages that never arrive.
    pub lost: f64,
}

impl Default for Network {
    fn default() -> Self {
        Self { delay_min_us: 50, delay_max_us: 2_000, repeated: 0.0, lost: 0.0 }
    }
}

/// A network and the clock that its messages wait on.
pub(crate) struct Fabric {
    pub(crate) queue: EventQueue<Envelope>,
    network: Network,
    random: Random,
}

impl Fabric {
    pub(crate) fn new(network: Network, seed: u64) -> Self {
        Self { queue: EventQueue::new(), network, random: Random::new(seed, 1) }
    }

    pub(crate) fn set_network(&mut self, network: Network) {
        self.network = network;
    }

    /// Sends over the network.
    pub(crate) fn send(&mut self, envelope: Envelope) {
        let copies = match self.random.unit() {
            draw if draw < self.network.lost => 0,
            draw if draw < self.network.lost + self.network.repeated => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let Network { delay_min_us, delay_max_us, .. } = self.network;
            let delay_us = self.random.between(delay_min_us, delay_max_us);
            self.queue.after(delay_us, envelope.clone());
        }
    }

    /// A timer of one party: neither lost nor late.
    pub(crate) fn timer(&mut self, after_us: u64, envelope: Envelope) {
        self.queue.after(after_us, envelope);
    }
}
