//! What a server's prefix cache could hit in exactly the requests of one run.

use std::collections::HashMap;

use crate::plan::{Phase, PlannedRequest};
use crate::prefix::LruCache;
use crate::random::mix;

/// The capacities that hit rates are told for, in blocks of the server.
pub const CAPACITIES: [usize; 5] = [1_000, 3_000, 10_000, 30_000, 100_000];

/// Part of the measured prompt tokens that a server could reuse which keeps the `capacity` blocks of
/// `server_block` tokens that were used last, stores a prompt at once, and always computes its last
/// token. Requests that fill the cache are stored and not counted.
pub fn lru_token_hits(requests: &[PlannedRequest], server_block: u32) -> Vec<(usize, f64)> {
    let server_block = server_block.max(1);
    let mut names = HashMap::new();
    let prompts: Vec<Vec<u32>> =
        requests.iter().map(|request| blocks(request, server_block, &mut names)).collect();
    drop(names);
    CAPACITIES
        .iter()
        .map(|capacity| (*capacity, hit(requests, &prompts, server_block, *capacity)))
        .collect()
}

fn hit(
    requests: &[PlannedRequest],
    prompts: &[Vec<u32>],
    server_block: u32,
    capacity: usize,
) -> f64 {
    let mut cache = LruCache::new(capacity);
    let (mut hits, mut all) = (0, 0);
    for (request, prompt) in requests.iter().zip(prompts) {
        let hit = cache.admit(prompt.iter().map(|block| (*block, server_block)));
        if request.phase == Phase::Measured {
            // The last token is computed, and with it the block that it is in.
            let most = (request.input_tokens.saturating_sub(1)) / server_block;
            hits += (hit.blocks as u64).min(u64::from(most)) * u64::from(server_block);
            all += u64::from(request.input_tokens);
        }
    }
    if all > 0 { hits as f64 / all as f64 } else { 0.0 }
}

/// The full blocks of a prompt as the server cuts it, by numbers that stand for their content and
/// all before it.
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
    use crate::prompt::Block;
    use proptest::prelude::*;

    fn request(numbers: &[u32], size: u32, phase: Phase) -> PlannedRequest {
        let block = |n: &u32| Block { number: *n, tokens: size, id: u64::from(*n) };
        PlannedRequest {
            intended_ns: 0,
            session: None,
            turn: 0,
            think_ns: 0,
            phase,
            input_tokens: size * numbers.len() as u32,
            output_tokens: 1,
            blocks: numbers.iter().map(block).collect(),
        }
    }

    #[test]
    fn blocks_of_the_server_are_cut_across_those_of_the_trace() {
        let mut names = HashMap::new();
        let mut of = |numbers: &[u32]| blocks(&request(numbers, 6, Phase::Measured), 4, &mut names);
        assert_eq!(of(&[1, 2]), [0, 1, 2]);
        // The second block of the server reaches into the second of the trace.
        assert_eq!(of(&[1, 3]), [0, 3, 4]);
        assert_eq!(of(&[1]), [0]);
        // The same block behind another beginning is another one.
        assert_eq!(of(&[2, 1]), [5, 6, 7]);
    }

    #[test]
    fn what_fills_the_cache_is_not_counted() {
        let plan = [request(&[1, 2], 8, Phase::Warmup), request(&[1, 2], 8, Phase::Measured)];
        // The last block holds the last token.
        assert_eq!(lru_token_hits(&plan, 8)[0], (1_000, 0.5));
        assert_eq!(lru_token_hits(&plan[1..], 8)[0], (1_000, 0.0));
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
            let hits = lru_token_hits(&plan, server_block);
            let ideal = ideal_hits(&plan, server_block).server_token_hit;
            prop_assert!((hits[0].1 - ideal).abs() < 1e-12, "{} is not {ideal}", hits[0].1);
        }
    }
}
