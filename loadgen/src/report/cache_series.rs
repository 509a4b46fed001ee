//! Prefix reuse over time: the hits that each bin's requests allow and those the server reports.

use serde::{Deserialize, Serialize};

use super::bins::Bins;
use crate::measure::expected::ExpectedHits;
use crate::plan::PlannedRequest;
use crate::send::record::RequestRecord;

/// Hits as shares of the prompt tokens that were due in each bin; `None` for a bin without any.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CacheSeries {
    /// Hits of an infinite cache, in the server's blocks.
    pub infinite: Vec<Option<f64>>,
    /// Hits of LRU caches.
    pub lru: Vec<LruSeries>,
    /// Hits that the server reported, over the replies that report them.
    pub observed: Vec<Option<f64>>,
}

/// Hits of a cache of limited size over time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LruSeries {
    /// Capacity, in blocks of the server.
    pub blocks: usize,
    /// Shares of the prompt tokens.
    pub token_hit: Vec<Option<f64>>,
}

impl CacheSeries {
    /// Returns whether every column has an entry for each of `bins`.
    pub fn is_whole(&self, bins: usize) -> bool {
        let lru = self.lru.iter().map(|lru| lru.token_hit.len());
        lru.chain([self.infinite.len(), self.observed.len()]).all(|len| len == bins)
    }

    /// Returns the smallest capacity from which on a cache hits as much as an infinite one.
    pub fn sufficient_capacity(&self) -> Option<usize> {
        let sufficient = self.lru.iter().rev().take_while(|lru| lru.token_hit == self.infinite);
        sufficient.last().map(|lru| lru.blocks)
    }
}

/// Bins expected and reported hits by intended time. Returns `None` if no reuse is possible and the
/// server reports none.
pub(super) fn cache_series(
    bins: &Bins,
    all: &[&RequestRecord],
    offered: &[PlannedRequest],
    expected: &ExpectedHits,
) -> Option<CacheSeries> {
    let expect = |hits: &[u32]| {
        parts(
            bins,
            all.iter().filter_map(|r| {
                let hit = f64::from(*hits.get(r.index)?);
                Some((r.intended_ns, hit, f64::from(offered.get(r.index)?.input_tokens)))
            }),
        )
    };
    let observed = parts(
        bins,
        all.iter().filter_map(|r| {
            let usage = r.reply.usage.filter(|_| r.succeeded())?;
            Some((r.intended_ns, usage.cached_tokens? as f64, usage.prompt_tokens as f64))
        }),
    );
    let nothing = observed.iter().all(Option::is_none);
    if nothing && expected.infinite.iter().all(|hit| *hit == 0) {
        return None;
    }
    Some(CacheSeries {
        infinite: expect(&expected.infinite),
        lru: expected
            .lru
            .iter()
            .map(|(blocks, hits)| LruSeries { blocks: *blocks, token_hit: expect(hits) })
            .collect(),
        observed,
    })
}

/// Divides sums of hits by sums of tokens.
fn parts(bins: &Bins, of: impl Iterator<Item = (i64, f64, f64)>) -> Vec<Option<f64>> {
    let (hits, tokens): (Vec<_>, Vec<_>) =
        of.map(|(at, hit, tokens)| ((at, hit), (at, tokens))).unzip();
    let (hits, tokens) = (bins.sum(hits.into_iter()), bins.sum(tokens.into_iter()));
    hits.into_iter()
        .zip(tokens)
        .map(|(hit, of)| (of > 0.0).then(|| (hit / of * 1e4).round() / 1e4))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::measured::tests::{outcome, plan};
    use super::*;
    use crate::measure::expected::expected_hits;
    use crate::send::reply::Usage;

    #[test]
    fn each_bin_has_its_own_expectation_and_what_the_server_said() {
        // Prompts of 8 tokens, due every 10 ms; every other one repeats the one before it.
        let (mut plan, mut run) = (plan(200), outcome(200, |_| 0));
        for index in (1..200).step_by(2) {
            plan.requests[index].blocks = plan.requests[index - 1].blocks.clone();
        }
        for (index, record) in run.records.iter_mut().enumerate() {
            // In the second half the server has no hits. It counts 2 tokens more in each prompt.
            let cached = if index % 2 == 1 && index < 100 { 4 } else { 0 };
            record.reply.usage = Some(Usage {
                prompt_tokens: 10,
                completion_tokens: 3,
                cached_tokens: Some(cached),
            });
        }
        let expected = expected_hits(&plan.requests, 4);
        let bins = Bins::new(0, 2_000_000_000, 200);
        let all: Vec<&RequestRecord> = run.records.iter().collect();
        let series = cache_series(&bins, &all, &plan.requests, &expected).unwrap();
        assert!(series.is_whole(series.observed.len()));
        // 4 of 16 tokens: the last one is computed, so its block is not a hit.
        assert_eq!((series.infinite[0], series.lru[0].token_hit[0]), (Some(0.25), Some(0.25)));
        assert_eq!(series.sufficient_capacity(), Some(1_000));
        assert_eq!((series.observed[0], series.observed[8]), (Some(0.2), Some(0.0)));
        assert_eq!(series.observed.last(), Some(&None));
    }

    #[test]
    fn without_anything_to_reuse_and_a_word_of_the_server_there_is_nothing() {
        let (plan, mut run) = (plan(20), outcome(20, |_| 0));
        let bins = Bins::new(0, 200_000_000, 20);
        let expected = expected_hits(&plan.requests, 4);
        let of = |records: &[RequestRecord]| {
            let all: Vec<&RequestRecord> = records.iter().collect();
            cache_series(&bins, &all, &plan.requests, &expected)
        };
        assert_eq!(of(&run.records), None);
        let usage = Usage { prompt_tokens: 8, completion_tokens: 3, cached_tokens: Some(0) };
        run.records[0].reply.usage = Some(usage);
        assert_eq!(of(&run.records).unwrap().observed[0], Some(0.0));
    }
}
