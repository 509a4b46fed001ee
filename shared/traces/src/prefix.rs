//! Models of prefix caches: how much of each prompt an earlier one has put into the cache.

use std::collections::{HashMap, VecDeque};

/// The part of a prompt that a cache held on arrival.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hit {
    /// Leading blocks in the cache.
    pub blocks: usize,
    /// Tokens in the leading blocks.
    pub tokens: u64,
    /// Cached blocks after a missing one: a sign of a broken chain of hashes.
    pub stray_blocks: usize,
    /// Tokens in the stray blocks.
    pub stray_tokens: u64,
}

impl Hit {
    fn of(blocks: impl Iterator<Item = (u32, u32)>, is_cached: impl Fn(u32) -> bool) -> Self {
        let mut hit = Self::default();
        let mut leading = true;
        for (block, tokens) in blocks {
            let cached = is_cached(block);
            leading &= cached;
            if leading {
                hit.blocks += 1;
                hit.tokens += u64::from(tokens);
            } else if cached {
                hit.stray_blocks += 1;
                hit.stray_tokens += u64::from(tokens);
            }
        }
        hit
    }
}

/// A numbering of blocks by their whole prefix: the same block behind another prefix has another
/// number, as in a prefix cache.
#[derive(Default)]
pub struct Chains {
    /// Number by the number of the prefix, 0 for none, and the block.
    numbers: HashMap<(u32, u32), u32>,
}

impl Chains {
    /// Renumbers `blocks`; the tokens stay.
    pub fn of(&mut self, blocks: impl Iterator<Item = (u32, u32)>) -> Vec<(u32, u32)> {
        let mut before = 0;
        let chained = blocks.map(|(block, tokens)| {
            let next = self.numbers.len() as u32 + 1;
            before = *self.numbers.entry((before, block)).or_insert(next);
            (before, tokens)
        });
        chained.collect()
    }
}

/// A cache that keeps every block.
#[derive(Default)]
pub struct InfiniteCache {
    seen: Vec<bool>,
}

impl InfiniteCache {
    /// Looks up a prompt, given as blocks and their tokens, then stores all of it.
    pub fn admit(&mut self, blocks: impl Iterator<Item = (u32, u32)> + Clone) -> Hit {
        let hit = Hit::of(blocks.clone(), |block| {
            self.seen.get(block as usize).copied().unwrap_or(false)
        });
        blocks.for_each(|(block, _)| self.store(block));
        hit
    }

    fn store(&mut self, block: u32) {
        let at = block as usize;
        if self.seen.len() <= at {
            self.seen.resize(at + 1, false);
        }
        self.seen[at] = true;
    }

    /// Returns the number of different blocks in the cache.
    pub fn unique_blocks(&self) -> usize {
        self.seen.iter().filter(|seen| **seen).count()
    }
}

/// A cache of limited size that evicts the least recently used block.
pub struct LruCache {
    capacity: usize,
    held: usize,
    /// Time of the last use by block, from 1; 0 for a block that is not in the cache.
    used: Vec<u64>,
    /// Uses in their order. An entry is stale if `used` has a later time for its block.
    uses: VecDeque<(u32, u64)>,
    now: u64,
}

impl LruCache {
    /// Creates a cache of `capacity` blocks.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, held: 0, used: Vec::new(), uses: VecDeque::new(), now: 0 }
    }

    /// Looks up a prompt, given as blocks and their tokens, then uses all of it from the last block
    /// to the first, so that the end of a prompt is evicted before its beginning.
    pub fn admit(&mut self, blocks: impl Iterator<Item = (u32, u32)> + Clone) -> Hit {
        let hit = Hit::of(blocks.clone(), |block| {
            self.used.get(block as usize).is_some_and(|at| *at > 0)
        });
        let blocks: Vec<u32> = blocks.map(|(block, _)| block).collect();
        blocks.into_iter().rev().for_each(|block| self.touch(block));
        hit
    }

    fn touch(&mut self, block: u32) {
        let at = block as usize;
        if self.used.len() <= at {
            self.used.resize(at + 1, 0);
        }
        self.held += usize::from(self.used[at] == 0);
        self.now += 1;
        self.used[at] = self.now;
        self.uses.push_back((block, self.now));
        while self.held > self.capacity {
            let Some((oldest, when)) = self.uses.pop_front() else { return };
            if self.used[oldest as usize] == when {
                self.used[oldest as usize] = 0;
                self.held -= 1;
            }
        }
        self.drop_stale();
    }

    /// Bounds the list of uses where nothing is evicted.
    fn drop_stale(&mut self) {
        if self.uses.len() > 1024 + 2 * self.held {
            let used = &self.used;
            self.uses.retain(|(block, when)| used[*block as usize] == *when);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn blocks(numbers: &[u32]) -> impl Iterator<Item = (u32, u32)> + Clone + '_ {
        numbers.iter().map(|n| (*n, 8))
    }

    #[test]
    fn only_the_leading_run_counts() {
        let mut cache = InfiniteCache::default();
        let three = [(0, 8), (1, 8), (2, 4)];
        assert_eq!(cache.admit(three.into_iter()), Hit::default());
        let hit = cache.admit([(0, 8), (1, 8), (3, 8), (2, 6)].into_iter());
        assert_eq!(hit, Hit { blocks: 2, tokens: 16, stray_blocks: 1, stray_tokens: 6 });
        assert_eq!(cache.admit(three.into_iter()).tokens, 20);
    }

    #[test]
    fn a_block_behind_another_beginning_is_another_block() {
        let mut chains = Chains::default();
        let numbers = |chains: &mut Chains, of: &[u32]| {
            chains.of(blocks(of)).into_iter().map(|(number, _)| number).collect::<Vec<_>>()
        };
        assert_eq!(numbers(&mut chains, &[7, 8, 9]), [1, 2, 3]);
        assert_eq!(numbers(&mut chains, &[7, 9, 8]), [1, 4, 5]);
        assert_eq!(numbers(&mut chains, &[7, 8]), [1, 2]);
    }

    #[test]
    fn the_block_unused_for_longest_makes_room() {
        let mut cache = LruCache::new(3);
        cache.admit(blocks(&[0, 1, 2]));
        assert_eq!(cache.admit(blocks(&[2])).blocks, 1);
        cache.admit(blocks(&[3]));
        assert_eq!(cache.admit(blocks(&[0, 2])).blocks, 2);
        assert_eq!(cache.admit(blocks(&[1])).blocks, 0);
    }

    proptest! {
        #[test]
        fn the_quick_cache_is_the_plain_one(
            prompts in prop::collection::vec(prop::collection::vec(0_u32..12, 1..6), 1..60),
            capacity in 0_usize..10,
        ) {
            let mut quick = LruCache::new(capacity);
            let mut plain: Vec<u32> = Vec::new();
            for prompt in prompts {
                let hits = prompt.iter().take_while(|block| plain.contains(block)).count();
                prop_assert_eq!(quick.admit(blocks(&prompt)).blocks, hits);
                for block in prompt.into_iter().rev() {
                    plain.retain(|other| *other != block);
                    plain.push(block);
                    if plain.len() > capacity {
                        plain.remove(0);
                    }
                }
            }
        }

        #[test]
        fn a_large_cache_is_an_infinite_one(
            prompts in prop::collection::vec(prop::collection::vec(0_u32..50, 1..9), 1..60),
        ) {
            let (mut large, mut infinite) = (LruCache::new(50), InfiniteCache::default());
            for prompt in prompts {
                prop_assert_eq!(large.admit(blocks(&prompt)), infinite.admit(blocks(&prompt)));
            }
        }
    }
}
