//! The requests that clients send to a cluster.

use protocol::{Stopping, TokenId};

use crate::random::Random;

/// Requests that arrive over a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Mean arrivals per second, with exponential gaps.
    pub rate: f64,
    /// Milliseconds during which they arrive.
    pub for_ms: u64,
    /// Longest prompt.
    pub prompt_tokens_max: u32,
    /// Longest output asked for.
    pub output_tokens_max: u32,
    /// Milliseconds that a request may take.
    pub deadline_ms: u64,
    /// Share of clients that leave in mid-stream.
    pub leaving: f64,
    /// Share of prompts that begin as the one before.
    pub shared: f64,
}

impl Load {
    /// `rate` requests per second for `for_ms`.
    pub fn poisson(rate: f64, for_ms: u64) -> Self {
        Self {
            rate,
            for_ms,
            prompt_tokens_max: 200,
            output_tokens_max: 60,
            deadline_ms: 60_000,
            leaving: 0.0,
            shared: 0.2,
        }
    }
}

/// One client's request.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) at_us: u64,
    pub(crate) prompt: Vec<TokenId>,
    pub(crate) stopping: Stopping,
    pub(crate) deadline_ms: u64,
    /// The client leaves after this many tokens.
    pub(crate) leaves_after: Option<usize>,
}

/// Conversations share their beginnings: some prompts start as an earlier one.
pub(crate) fn asks(load: &Load, seed: u64) -> Vec<Ask> {
    let mut random = Random::new(seed, 2);
    let mut asks: Vec<Ask> = Vec::new();
    let mut at_us = 0.0;
    loop {
        at_us += random.exponential(1e6 / load.rate);
        if (load.for_ms * 1_000) as f64 <= at_us {
            return asks;
        }
        let length = random.between(1, u64::from(load.prompt_tokens_max)) as usize;
        let mut prompt: Vec<TokenId> = Vec::new();
        if random.unit() < load.shared
            && let Some(earlier) = asks.last()
        {
            prompt.extend(&earlier.prompt[..length.min(earlier.prompt.len())]);
        }
        while prompt.len() < length {
            prompt.push(random.between(1, 996) as TokenId);
        }
        let max_tokens = random.between(1, u64::from(load.output_tokens_max)) as u32;
        let leaves = random.unit() < load.leaving;
        let after = random.between(0, u64::from(max_tokens)) as usize;
        asks.push(Ask {
            at_us: at_us as u64,
            prompt,
            stopping: Stopping { max_tokens, min_tokens: 0, stop_tokens: vec![0] },
            deadline_ms: load.deadline_ms,
            leaves_after: leaves.then_some(after),
        });
    }
}
