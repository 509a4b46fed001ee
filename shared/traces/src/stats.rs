//! Statistics of a trace: arrivals, lengths, sessions, prefix reuse.

use std::collections::HashMap;

use super::oddity::Oddities;
use super::quantum::{Quantum, quantum_of};
use super::trace::{BlockSizes, Record, Trace};
use crate::prefix::{Chains, InfiniteCache, LruCache};
use crate::quantile::{Quantiles, quantile};
use crate::units::NS_PER_S;

/// The cache sizes, in blocks, that the hit rate is computed for.
pub const LRU_BLOCKS: [usize; 5] = [1_000, 3_000, 10_000, 30_000, 50_000];

/// Token counts of the prompts, or of the outputs, of a trace.
#[derive(Clone, Debug, PartialEq)]
pub struct Lengths {
    /// Distribution of the lengths.
    pub quantiles: Quantiles,
    /// Largest length.
    pub max: u32,
    /// Sum of all lengths.
    pub sum: u64,
}

/// Arrival rate of a trace and its variation.
#[derive(Clone, Debug, PartialEq)]
pub struct Pace {
    /// Time from the first arrival to the last.
    pub duration_s: f64,
    /// Requests per second of that span.
    pub mean_rps: f64,
    /// Coefficient of variation of the gaps between arrivals.
    pub ia_cv: f64,
    /// Most requests per second in any 10 s bin.
    pub peak10_rps: f64,
    /// Most requests per second in any 60 s bin.
    pub peak60_rps: f64,
    /// Grid of the time stamps, if they lie on one.
    pub quantum: Option<Quantum>,
}

/// Prefix reuse with an infinite cache, under the rule that a hit needs all blocks before it.
#[derive(Clone, Debug, PartialEq)]
pub struct Reuse {
    /// Tokens in a full block, if they have one size.
    pub block_tokens: Option<u32>,
    /// Different blocks.
    pub unique_blocks: usize,
    /// Blocks of all prompts together.
    pub total_blocks: usize,
    /// Share of the blocks that were cached on arrival.
    pub block_hit: f64,
    /// Share of the prompt tokens that were cached on arrival.
    pub token_hit: f64,
    /// `token_hit` over the second half of the requests.
    pub token_hit_2nd_half: f64,
    /// Share of the prompt tokens in cached blocks, at any position of the prompt.
    pub anywhere_token_hit: f64,
    /// Share of the requests with any hit.
    pub reqs_with_hit: f64,
    /// Share of the requests whose whole prompt was cached.
    pub reqs_fully_cached: f64,
    /// Cached blocks that came after a missing one.
    pub non_prefix_seen: usize,
    /// Share of the requests that hold the most common block.
    pub top1_block_share: f64,
    /// Share of the different blocks that occur once.
    pub blocks_used_once: f64,
    /// Capacities in blocks, with the share of the prompt tokens that an LRU cache of each held.
    pub lru_token_hit: Vec<(usize, f64)>,
}

/// Sessions of several turns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sessions {
    /// Number of sessions.
    pub count: usize,
    /// Mean number of turns.
    pub turns_mean: f64,
    /// Turns of the longest session.
    pub turns_max: usize,
    /// Median seconds from a session's first request to its last.
    pub span_p50_s: f64,
    /// Median seconds before a turn that follows another one.
    pub think_p50_s: f64,
    /// 99th percentile of the seconds before a turn that follows another one.
    pub think_p99_s: f64,
}

/// Statistics of a trace.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceStats {
    /// Name of the file.
    pub name: String,
    /// Format and unit of the time stamps.
    pub format: &'static str,
    /// Number of requests.
    pub requests: usize,
    /// Arrivals, if the trace has time stamps.
    pub pace: Option<Pace>,
    /// Oddities that the reader passed over.
    pub oddities: Oddities,
    /// Requests without any output token.
    pub zero_output: usize,
    /// Prompt lengths.
    pub input: Lengths,
    /// Output lengths.
    pub output: Lengths,
    /// Sessions, if the trace names them.
    pub sessions: Option<Sessions>,
    /// Prefix reuse, if the format names blocks.
    pub reuse: Option<Reuse>,
    /// Notes for a reader of the figures.
    pub notes: Vec<String>,
}

/// Computes the statistics of `trace`.
pub fn stats(trace: &Trace) -> TraceStats {
    let records = &trace.records;
    TraceStats {
        name: trace.name.clone(),
        format: trace.format.describe(),
        requests: records.len(),
        pace: trace.timed.then(|| pace(trace)),
        oddities: trace.oddities.clone(),
        zero_output: records.iter().filter(|r| r.output_tokens == 0).count(),
        input: lengths(records.iter().map(|r| r.input_tokens)),
        output: lengths(records.iter().map(|r| r.output_tokens)),
        sessions: sessions(records),
        reuse: trace.sizes.any().then(|| reuse(records, &trace.sizes)),
        notes: trace.notes.clone(),
    }
}

fn pace(trace: &Trace) -> Pace {
    let times: Vec<i64> = trace.records.iter().map(|r| r.at_ns).collect();
    let first = times.first().copied().unwrap_or(0);
    let duration_s = times.last().map_or(0.0, |last| (*last - first) as f64 / 1e9);
    Pace {
        duration_s,
        mean_rps: if duration_s > 0.0 { times.len() as f64 / duration_s } else { 0.0 },
        ia_cv: gap_cv(&times),
        peak10_rps: peak_rps(&times, 10),
        peak60_rps: peak_rps(&times, 60),
        quantum: quantum_of(trace),
    }
}

fn lengths(values: impl Iterator<Item = u32> + Clone) -> Lengths {
    Lengths {
        quantiles: Quantiles::of(values.clone().map(f64::from).collect()),
        max: values.clone().max().unwrap_or(0),
        sum: values.map(u64::from).sum(),
    }
}

fn gap_cv(times: &[i64]) -> f64 {
    if times.len() < 2 {
        return 0.0;
    }
    let gaps: Vec<f64> = times.windows(2).map(|w| (w[1] - w[0]) as f64).collect();
    let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
    let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
    if mean > 0.0 { variance.sqrt() / mean } else { 0.0 }
}

fn peak_rps(times: &[i64], bin_s: i64) -> f64 {
    let bins = times.chunk_by(|a, b| a / (bin_s * NS_PER_S) == b / (bin_s * NS_PER_S));
    bins.map(<[i64]>::len).max().unwrap_or(0) as f64 / bin_s as f64
}

fn sessions(records: &[Record]) -> Option<Sessions> {
    let mut of: HashMap<u32, (usize, i64, i64)> = HashMap::new();
    let mut thinking = Vec::new();
    for (record, session) in records.iter().filter_map(|r| Some((r, r.session?))) {
        let (turns, _, last_ns) = of.entry(session).or_insert((0, record.at_ns, record.at_ns));
        if *turns > 0 {
            thinking.push(record.think_ns as f64 / 1e9);
        }
        *turns += 1;
        *last_ns = record.at_ns;
    }
    let turns_max = of.values().map(|(turns, ..)| *turns).max()?;
    let turns = of.values().map(|(turns, ..)| *turns).sum::<usize>();
    let mut spans: Vec<f64> = of.values().map(|(_, from, to)| (to - from) as f64 / 1e9).collect();
    spans.sort_unstable_by(f64::total_cmp);
    thinking.sort_unstable_by(f64::total_cmp);
    Some(Sessions {
        count: of.len(),
        turns_mean: turns as f64 / of.len() as f64,
        turns_max,
        span_p50_s: quantile(&spans, 0.5).unwrap_or(0.0),
        think_p50_s: quantile(&thinking, 0.5).unwrap_or(0.0),
        think_p99_s: quantile(&thinking, 0.99).unwrap_or(0.0),
    })
}

fn reuse(records: &[Record], sizes: &BlockSizes) -> Reuse {
    let mut cache = InfiniteCache::default();
    let mut hits: Vec<_> = records.iter().map(|r| cache.admit(sizes.split(r))).collect();
    let anywhere = hits.iter().map(|h| h.tokens + h.stray_tokens).sum::<u64>();
    let prompts = prompts(records, sizes);
    if let BlockSizes::Each(_) = sizes {
        let mut cache = InfiniteCache::default();
        hits = prompts.iter().map(|prompt| cache.admit(prompt.iter().copied())).collect();
    }
    let highest = records.iter().flat_map(|r| &r.blocks).max().map_or(0, |b| *b as usize + 1);
    let mut uses = vec![0_usize; highest];
    records.iter().flat_map(|r| &r.blocks).for_each(|block| uses[*block as usize] += 1);
    uses.retain(|n| *n > 0);
    let total_blocks: usize = records.iter().map(|r| r.blocks.len()).sum();
    let all = |records: &[Record]| records.iter().map(|r| u64::from(r.input_tokens)).sum::<u64>();
    let ratio = |part: f64, all: f64| if all > 0.0 { part / all } else { 0.0 };
    let token_hit = |from: usize| {
        let hit = hits[from..].iter().map(|h| h.tokens).sum::<u64>();
        ratio(hit as f64, all(&records[from..]) as f64)
    };
    let part = |n: usize| ratio(n as f64, records.len() as f64);
    let fully_cached =
        hits.iter().zip(records).filter(|(hit, record)| hit.blocks == record.blocks.len()).count();
    let hit_blocks: usize = hits.iter().map(|h| h.blocks).sum();
    Reuse {
        block_tokens: sizes.uniform(),
        unique_blocks: uses.len(),
        total_blocks,
        block_hit: ratio(hit_blocks as f64, total_blocks as f64),
        token_hit: token_hit(0),
        token_hit_2nd_half: token_hit(records.len() / 2),
        anywhere_token_hit: ratio(anywhere as f64, all(records) as f64),
        reqs_with_hit: part(hits.iter().filter(|h| h.blocks > 0).count()),
        reqs_fully_cached: part(fully_cached),
        non_prefix_seen: hits.iter().map(|h| h.stray_blocks).sum(),
        top1_block_share: part(uses.iter().copied().max().unwrap_or(0)),
        blocks_used_once: ratio(uses.iter().filter(|n| **n == 1).count() as f64, uses.len() as f64),
        lru_token_hit: LRU_BLOCKS
            .iter()
            .map(|capacity| (*capacity, lru_token_hit(&prompts, *capacity)))
            .collect(),
    }
}

/// Returns the blocks of each prompt with their tokens. The hash of a block of uniform size
/// check_coverage everything before it. Chunks of unequal length have the same id at every
/// position, so this renumbers them by their prefix.
fn prompts(records: &[Record], sizes: &BlockSizes) -> Vec<Vec<(u32, u32)>> {
    let mut chains = Chains::default();
    let prompts = records.iter().map(|record| match sizes {
        BlockSizes::Each(_) => chains.of(sizes.split(record)),
        BlockSizes::None | BlockSizes::Uniform(_) => sizes.split(record).collect(),
    });
    prompts.collect()
}

/// Returns the share of the prompt tokens that an LRU cache of `capacity` blocks held on arrival.
fn lru_token_hit(prompts: &[Vec<(u32, u32)>], capacity: usize) -> f64 {
    let mut cache = LruCache::new(capacity);
    let hit: u64 = prompts.iter().map(|prompt| cache.admit(prompt.iter().copied()).tokens).sum();
    let all: u64 = prompts.iter().flatten().map(|(_, tokens)| u64::from(*tokens)).sum();
    hit as f64 / all.max(1) as f64
}
