//! Cache hits that the requests of one run allow.

use std::collections::HashMap;

use traces::prefix::LruCache;
use traces::random::mix;

use crate::plan::{Phase, PlannedRequest};

/// Cache capacities, in blocks of the server, that hit rates are computed for.
pub const CAPACITIES: [usize; 5] = [1_000, 3_000, 10_000, 30_000, 100_000];

/// Prompt tokens that a server could reuse, one entry per request of a plan.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExpectedHits {
    /// Hits of a cache that keeps everything.
    pub infinite: Vec<u32>,
    /// Hits of LRU caches, by capacity in blocks.
    pub lru: Vec<(usize, Vec<u32>)>,
}

/// Computes the hits of a server that caches blocks of `server_block` tokens, stores a prompt at
/// once, and always computes its last token. Warm-up requests are stored like others.
pub fn expected_hits(requests: &[PlannedRequest], server_block: u32) -> ExpectedHits {
    let server_block = server_block.max(1);
    let mut names = HashMap::new();
    let prompts: Vec<Vec<u32>> =
        requests.iter().map(|request| blocks(request, server_block, &mut names)).collect();
    let unique = names.len();
    drop(names);
    let of = |capacity| hits(requests, &prompts, server_block, capacity);
    ExpectedHits {
        infinite: of(unique),
        lru: CAPACITIES.iter().map(|capacity| (*capacity, of(*capacity))).collect(),
    }
}

/// Returns `hits` as a share of the measured prompt tokens.
pub fn token_hit(requests: &[PlannedRequest], hits: &[u32]) -> f64 {
    let measured = requests.iter().zip(hits).filter(|(r, _)| r.phase == Phase::Measured);
    let (hits, all) = measured.fold((0, 0), |(hits, all), (request, hit)| {
        (hits + u64::from(*hit), all + u64::from(request.input_tokens))
    });
    if all > 0 { hits as f64 / all as f64 } else { 0.0 }
}

fn hits(
    requests: &[PlannedRequest],
    prompts: &[Vec<u32>],
    server_block: u32,
    capacity: usize,
) -> Vec<u32> {
    let mut cache = LruCache::new(capacity);
    requests
        .iter()
        .zip(prompts)
        .map(|(request, prompt)| {
            let hit = cache.admit(prompt.iter().map(|block| (*block, server_block)));
            // The server computes the last token, so its block is not a hit.
            let most = request.input_tokens.saturating_sub(1) / server_block;
            (hit.blocks as u32).min(most) * server_block
        })
        .collect()
}

/// Returns the full blocks of a prompt in the server's size, as numbers for their content and
/// everything before it.
fn blocks(request: &PlannedRequest, size: u32, names: &mut HashMap<u64, u32>) -> Vec<u32> {
    let mut numbers = Vec::with_capacity((request.input_tokens / size) as usize);
    let (mut content, mut filled) = (0, 0);
    for block in &request.blocks {
        let mut taken = 0;
        while taken < block.tokens {
            let step = (size - filled).min(block.tokens - taken);
            taken += step;
            filled += step;
            content = mix(content ^ mix(u64::from(block.number) << 32 | u64::from(taken)));
            if filled == size {
                let next = names.len() as u32;
                numbers.push(*names.entry(content).or_insert(next));
                filled = 0;
            }
        }
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::ideal_hits;
    use crate::plan::prompt::Block;
    use proptest::prelude::*;

    fn request(numbers: &[u32], size: u32, phase: Phase) -> PlannedRequest {
        let blocks = numbers.iter().map(|n| Block { number: *n, tokens: size, id: u64::from(*n) });
        PlannedRequest {
            intended_ns: 0,
            session: None,
            turn: 0,
            think_ns: 0,
            phase,
            input_tokens: size * numbers.len() as u32,
            output_tokens: 1,
            blocks: blocks.collect(),
        }
    }

    #[test]
    fn blocks_of_the_server_are_cut_across_those_of_the_trace() {
        let mut names = HashMap::new();
        let mut of = |numbers: &[u32]| blocks(&request(numbers, 6, Phase::Measured), 4, &mut names);
        assert_eq!(of(&[1, 2]), [0, 1, 2]);
        // The second block of the server extends into the second block of the trace.
        assert_eq!(of(&[1, 3]), [0, 3, 4]);
        assert_eq!(of(&[1]), [0]);
        // The same block behind another prefix is another block.
        assert_eq!(of(&[2, 1]), [5, 6, 7]);
    }

    #[test]
    fn what_fills_the_cache_is_not_counted() {
        let plan = [request(&[1, 2], 8, Phase::Warmup), request(&[1, 2], 8, Phase::Measured)];
        let expected = expected_hits(&plan, 8);
        // The last block holds the last token.
        assert_eq!(expected.infinite, [0, 8]);
        assert_eq!(expected.lru[0], (1_000, vec![0, 8]));
        assert_eq!(token_hit(&plan, &expected.infinite), 0.5);
        assert_eq!(token_hit(&plan[1..], &expected_hits(&plan[1..], 8).infinite), 0.0);
    }

    proptest! {
        #[test]
        fn a_cache_that_is_large_enough_hits_as_the_ideal_one(
            prompts in prop::collection::vec(prop::collection::vec(0_u32..6, 1..8), 1..40),
            size in 1_u32..9,
            server_block in 1_u32..9,
        ) {
            let plan: Vec<PlannedRequest> =
                prompts.iter().map(|numbers| request(numbers, size, Phase::Measured)).collect();
            let expected = expected_hits(&plan, server_block);
            let ideal = ideal_hits(&plan, server_block).server_token_hit;
            let infinite = token_hit(&plan, &expected.infinite);
            prop_assert!((infinite - ideal).abs() < 1e-12, "{infinite} is not {ideal}");
            prop_assert_eq!(&expected.lru[0].1, &expected.infinite);
        }
    }
}
