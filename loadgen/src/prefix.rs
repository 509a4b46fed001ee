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
    /// Looks the prompt up, then stores all of it.
    pub fn admit(&mut self, blocks: &[u32], input_tokens: u32, block_tokens: u32) -> Hit {
        let mut hit = Hit::default();
        let mut leading = true;
        for block in blocks {
            let there = self.seen.get(*block as usize).copied().unwrap_or(false);
            leading &= there;
            if leading {
                hit.blocks += 1;
            } else if there {
                hit.stray_blocks += 1;
            }
        }
        blocks.iter().for_each(|block| self.store(*block));
        hit.tokens = (hit.blocks as u64 * u64::from(block_tokens)).min(u64::from(input_tokens));
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
        assert_eq!(cache.admit(&[0, 1, 2], 20, 8), Hit::default());
        let hit = cache.admit(&[0, 1, 3, 2], 30, 8);
        assert_eq!(hit, Hit { blocks: 2, tokens: 16, stray_blocks: 1 });
        // The last block holds 4 tokens here.
        assert_eq!(cache.admit(&[0, 1, 2], 20, 8).tokens, 20);
    }
}
