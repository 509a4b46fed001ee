//! Prefix reuse: the hits that the requests allow and the hits that the server reports.

use serde::{Deserialize, Serialize};

use super::measured::Measured;
use crate::measure::expected::{ExpectedHits, token_hit};
use crate::plan::ideal_hits;

/// Expected and observed hits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CacheReport {
    /// Ideal hits by blocks of the trace.
    pub ideal_block_hit: f64,
    /// Ideal hits by prompt tokens.
    pub ideal_token_hit: f64,
    /// Block size of the server, for the following figures.
    pub server_block_tokens: u32,
    /// Ideal hits by prompt tokens in the server's blocks, with the last token always computed.
    pub ideal_server_token_hit: f64,
    /// Hits of LRU caches by prompt tokens in the server's blocks.
    #[serde(default)]
    pub lru_server_token_hit: Vec<LruHit>,
    /// Cached over prompt tokens of completed requests; `None` if the server does not report them.
    pub observed_token_hit: Option<f64>,
    /// Observed over ideal hits, both by tokens in the server's blocks.
    pub efficiency: Option<f64>,
}

/// Hits of a cache of limited size.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LruHit {
    /// Capacity, in blocks of the server.
    pub blocks: usize,
    /// Hits by prompt tokens.
    pub token_hit: f64,
}

/// Compares the expected hits of the sent requests with the server's counts.
pub fn cache(run: &Measured<'_>, expected: &ExpectedHits, server_block_tokens: u32) -> CacheReport {
    let offered = run.sent_plan();
    let ideal = ideal_hits(offered, server_block_tokens);
    let server_token_hit = ideal.server_token_hit;
    let usages = run.completed().filter_map(|r| r.reply.usage);
    let (mut cached, mut prompt) = (0, 0);
    for usage in usages {
        if let Some(tokens) = usage.cached_tokens {
            cached += tokens;
            prompt += usage.prompt_tokens;
        }
    }
    let observed = (prompt > 0).then(|| cached as f64 / prompt as f64);
    CacheReport {
        ideal_block_hit: ideal.block_hit,
        ideal_token_hit: ideal.token_hit,
        server_block_tokens,
        ideal_server_token_hit: server_token_hit,
        lru_server_token_hit: expected
            .lru
            .iter()
            .map(|(blocks, hits)| LruHit { blocks: *blocks, token_hit: token_hit(offered, hits) })
            .collect(),
        observed_token_hit: observed,
        efficiency: observed.filter(|_| server_token_hit > 0.0).map(|hit| hit / server_token_hit),
    }
}
