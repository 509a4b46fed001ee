//! Statistics of a trace: arrivals, lengths, prefix reuse.

use serde::Serialize;

use super::shape::find_quantum;
use super::{Record, Trace};
use crate::prefix::InfiniteCache;
use crate::quantile::Quantiles;
use crate::units::NS_PER_S;

/// Lengths of one side of the requests, in tokens.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Lengths {
    /// Their distribution.
    #[serde(flatten)]
    pub quantiles: Quantiles,
    /// All tokens together.
    pub sum: u64,
}

/// Prefix reuse with an infinite cache and the rule that a hit needs all blocks before it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reuse {
    /// Tokens in a full block.
    pub block_tokens: u32,
    /// Different blocks.
    pub unique_blocks: usize,
    /// Blocks of all prompts together.
    pub total_blocks: usize,
    /// Part of the blocks that were there already.
    pub block_hit: f64,
    /// Part of the prompt tokens that were there already.
    pub token_hit: f64,
    /// The same over the second half of the requests.
    pub token_hit_2nd_half: f64,
    /// Part of the requests with any hit.
    pub reqs_with_hit: f64,
    /// Part of the requests whose whole prompt was there.
    pub reqs_fully_cached: f64,
    /// Blocks that were there behind one that was not.
    pub non_prefix_seen: usize,
    /// Part of the requests that hold the commonest block.
    pub top1_block_share: f64,
    /// Part of the different blocks that occur once.
    pub blocks_used_once: f64,
}

/// What `trace inspect` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TraceStats {
    /// Name of the file.
    pub name: String,
    /// Its format and unit.
    pub format: &'static str,
    /// How many requests.
    pub requests: usize,
    /// From the first arrival to the last.
    pub duration_s: f64,
    /// Requests per second of that span.
    pub mean_rps: f64,
    /// Coefficient of variation of the gaps between arrivals.
    pub ia_cv: f64,
    /// Most requests per second in any 10 s bin.
    pub peak10_rps: f64,
    /// Most requests per second in any 60 s bin.
    pub peak60_rps: f64,
    /// Step of the grid that the time stamps lie on, if they do.
    pub quantum_s: Option<f64>,
    /// Requests without any output token.
    pub zero_output: usize,
    /// Prompt lengths.
    #[serde(rename = "in")]
    pub input: Lengths,
    /// Output lengths.
    #[serde(rename = "out")]
    pub output: Lengths,
    /// Prefix reuse, if the format names blocks.
    pub reuse: Option<Reuse>,
}

/// Computes the statistics of `trace`.
pub fn stats(trace: &Trace) -> TraceStats {
    let records = &trace.records;
    let times: Vec<i64> = records.iter().map(|r| r.at_ns).collect();
    let duration_s = times.last().map_or(0.0, |last| *last as f64 / 1e9);
    TraceStats {
        name: trace.name.clone(),
        format: trace.format.describe(),
        requests: records.len(),
        duration_s,
        mean_rps: if duration_s > 0.0 { records.len() as f64 / duration_s } else { 0.0 },
        ia_cv: gap_cv(&times),
        peak10_rps: peak_rps(&times, 10),
        peak60_rps: peak_rps(&times, 60),
        quantum_s: find_quantum(&times).map(|q| q.step_ns as f64 / 1e9),
        zero_output: records.iter().filter(|r| r.output_tokens == 0).count(),
        input: lengths(records.iter().map(|r| r.input_tokens)),
        output: lengths(records.iter().map(|r| r.output_tokens)),
        reuse: (trace.block_tokens > 0).then(|| reuse(records, trace.block_tokens)),
    }
}

fn lengths(values: impl Iterator<Item = u32> + Clone) -> Lengths {
    Lengths {
        quantiles: Quantiles::of(values.clone().map(f64::from).collect()),
        sum: values.map(u64::from).sum(),
    }
}

fn gap_cv(times: &[i64]) -> f64 {
    let gaps: Vec<f64> = times.windows(2).map(|w| (w[1] - w[0]) as f64).collect();
    let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
    let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
    if mean > 0.0 { variance.sqrt() / mean } else { 0.0 }
}

fn peak_rps(times: &[i64], bin_s: i64) -> f64 {
    let bins = times.chunk_by(|a, b| a / (bin_s * NS_PER_S) == b / (bin_s * NS_PER_S));
    bins.map(<[i64]>::len).max().unwrap_or(0) as f64 / bin_s as f64
}

fn reuse(records: &[Record], block_tokens: u32) -> Reuse {
    let mut cache = InfiniteCache::default();
    let hits: Vec<_> =
        records.iter().map(|r| cache.admit(r.blocks_with_tokens(block_tokens))).collect();
    let mut uses = vec![0_usize; cache.unique_blocks()];
    records.iter().flat_map(|r| &r.blocks).for_each(|block| uses[*block as usize] += 1);
    let total_blocks: usize = records.iter().map(|r| r.blocks.len()).sum();
    let token_hit = |from: usize| {
        let all: u64 = records[from..].iter().map(|r| u64::from(r.input_tokens)).sum();
        hits[from..].iter().map(|h| h.tokens).sum::<u64>() as f64 / all as f64
    };
    let part = |n: usize| n as f64 / records.len() as f64;
    let full = |(hit, record): &(&crate::prefix::Hit, &Record)| hit.blocks == record.blocks.len();
    Reuse {
        block_tokens,
        unique_blocks: uses.len(),
        total_blocks,
        block_hit: hits.iter().map(|h| h.blocks).sum::<usize>() as f64 / total_blocks as f64,
        token_hit: token_hit(0),
        token_hit_2nd_half: token_hit(records.len() / 2),
        reqs_with_hit: part(hits.iter().filter(|h| h.blocks > 0).count()),
        reqs_fully_cached: part(hits.iter().zip(records).filter(full).count()),
        non_prefix_seen: hits.iter().map(|h| h.stray_blocks).sum(),
        top1_block_share: part(uses.iter().copied().max().unwrap_or(0)),
        blocks_used_once: uses.iter().filter(|n| **n == 1).count() as f64 / uses.len() as f64,
    }
}
