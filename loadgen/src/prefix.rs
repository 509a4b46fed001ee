//! An infinite prefix cache: how much of each prompt an earlier one already holds.

/// What the cache held of one prompt when it arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hit {
    /// Leading blocks that were there.
    pub blocks: usize,
    /// Tokens in them.
    pub tokens: u64,
    /// Blocks that were there behind one that was not: a sign of a broken chain.
    pub stray_blocks: usize,
}

/// Remembers every block it was shown, by interned number.
#[derive(Default)]
pub struct InfiniteCache {
    seen: Vec<bool>,
}

impl InfiniteCache {
    /// Looks a prompt of these blocks and their tokens up, then stores all of it.
    pub fn admit(&mut self, blocks: impl Iterator<Item = (u32, u32)> + Clone) -> Hit {
        let mut hit = Hit::default();
        let mut leading = true;
        for (block, tokens) in blocks.clone() {
            let there = self.seen.get(block as usize).copied().unwrap_or(false);
            leading &= there;
            if leading {
                hit.blocks += 1;
                hit.tokens += u64::from(tokens);
            } else if there {
                hit.stray_blocks += 1;
            }
        }
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

    /// How many different blocks it holds.
    pub fn unique_blocks(&self) -> usize {
        self.seen.iter().filter(|seen| **seen).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_leading_run_counts() {
        let mut cache = InfiniteCache::default();
        let three = [(0, 8), (1, 8), (2, 4)];
        assert_eq!(cache.admit(three.into_iter()), Hit::default());
        let hit = cache.admit([(0, 8), (1, 8), (3, 8), (2, 6)].into_iter());
        assert_eq!(hit, Hit { blocks: 2, tokens: 16, stray_blocks: 1 });
        assert_eq!(cache.admit(three.into_iter()).tokens, 20);
    }
}
