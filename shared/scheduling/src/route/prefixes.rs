//! Recently computed prompts, from which a price predicts the tokens that a worker finds stored.
//!
//! A router sees every prompt that it sends and learns of each how much was reused. It needs no
//! reply from the store for that, and none of the store's names: only its own, to compare.

use std::collections::BTreeSet;

use protocol::{BLOCK_TOKENS, BlockChain, BlockHash, ModelFingerprint, Scope, TokenId};

/// Number of prompts over which the share of expected tokens that came is averaged.
const TRUST_PROMPTS: f64 = 10.0;

/// A router's names of the full blocks of a sequence, which may go on.
#[derive(Clone, Debug)]
pub struct Names {
    chain: BlockChain,
    blocks: Vec<BlockHash>,
}

impl Names {
    /// Names the full blocks of `tokens`.
    pub fn of(scope: Scope, tokens: &[TokenId]) -> Self {
        let chain = BlockChain::new(ModelFingerprint([0; 32]), scope);
        let mut names = Self { chain, blocks: Vec::new() };
        names.extend(tokens);
        names
    }

    /// Names the full blocks of `tokens`, which follow those that have a name.
    pub fn extend(&mut self, tokens: &[TokenId]) {
        let blocks = tokens.chunks_exact(BLOCK_TOKENS).map(|block| self.chain.push(block));
        self.blocks.extend(blocks);
    }

    /// Returns the names in order.
    pub fn blocks(&self) -> &[BlockHash] {
        &self.blocks
    }
}

/// Prefixes in blocks, those unused for long forgotten.
#[derive(Debug)]
pub struct Prefixes {
    /// Used since the two were last exchanged, and before that.
    young: BTreeSet<BlockHash>,
    old: BTreeSet<BlockHash>,
    young_max: usize,
    /// Share of the expected tokens that were found.
    trust: f64,
}

impl Prefixes {
    /// Returns a memory of between half of `blocks_max` and all of it.
    pub fn new(blocks_max: usize) -> Self {
        let young_max = (blocks_max / 2).max(1);
        Self { young: BTreeSet::new(), old: BTreeSet::new(), young_max, trust: 1.0 }
    }

    /// Returns the tokens that a prompt of `tokens` with these blocks will find stored, scaled by the
    /// share of recent expectations that came true. Its last token is always computed.
    pub fn expected(&self, names: &[BlockHash], tokens: u32) -> u32 {
        let known =
            names.iter().take_while(|name| self.young.contains(name) || self.old.contains(name));
        let blocks = known.count() as u32;
        let stored = (blocks * BLOCK_TOKENS as u32).min(tokens.saturating_sub(1));
        let block = BLOCK_TOKENS as u32;
        (f64::from(stored) * self.trust) as u32 / block * block
    }

    /// Compares the expected tokens of a prompt with those found.
    pub fn compare(&mut self, expected: u32, found: u32) {
        if expected != 0 {
            let share = f64::from(found.min(expected)) / f64::from(expected);
            self.trust += (share - self.trust) / TRUST_PROMPTS;
        } else if found != 0 {
            self.trust += (1.0 - self.trust) / TRUST_PROMPTS;
        }
    }

    /// Adds blocks that are computed, and so stored.
    pub fn learn(&mut self, names: &[BlockHash]) {
        for name in names {
            self.old.remove(name);
            self.young.insert(*name);
            if self.young_max <= self.young.len() {
                self.old = std::mem::take(&mut self.young);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(tokens: std::ops::Range<u32>) -> Vec<BlockHash> {
        Names::of(Scope::shared(), &tokens.collect::<Vec<_>>()).blocks().to_vec()
    }

    #[test]
    fn a_sequence_that_goes_on_is_named_as_if_whole() {
        let tokens: Vec<TokenId> = (0..200).collect();
        let mut grown = Names::of(Scope::shared(), &tokens[..90]);
        grown.extend(&tokens[80..]);
        assert_eq!(grown.blocks(), Names::of(Scope::shared(), &tokens).blocks());
    }

    #[test]
    fn the_common_beginning_is_expected_but_never_the_last_token() {
        let mut prefixes = Prefixes::new(1_000);
        assert_eq!(prefixes.expected(&names(0..160), 160), 0);
        prefixes.learn(&names(0..160));
        let mut longer: Vec<TokenId> = (0..100).collect();
        longer.extend(500..600);
        let longer = Names::of(Scope::shared(), &longer);
        assert_eq!(prefixes.expected(longer.blocks(), 200), 96);
        assert_eq!(prefixes.expected(&names(0..160), 160), 144);
        assert_eq!(prefixes.expected(&names(1..160), 159), 0);
    }

    #[test]
    fn what_is_not_used_is_forgotten_and_what_is_used_stays() {
        let mut prefixes = Prefixes::new(100);
        let kept = names(0..160);
        for round in 1..100 {
            prefixes.learn(&kept);
            prefixes.learn(&names(round * 1_000..round * 1_000 + 320));
            assert!(prefixes.young.len() + prefixes.old.len() <= 100);
        }
        assert_eq!(prefixes.expected(&kept, 161), 160);
        assert_eq!(prefixes.expected(&names(1_000..1_320), 321), 0);
    }

    #[test]
    fn where_nothing_expected_comes_nothing_is_expected_until_something_does() {
        let mut prefixes = Prefixes::new(100);
        let all = names(0..160);
        prefixes.learn(&all);
        (0..40).for_each(|_| prefixes.compare(160, 0));
        assert_eq!(prefixes.expected(&all, 161), 0);
        (0..40).for_each(|_| prefixes.compare(0, 160));
        assert_eq!(prefixes.expected(&all, 161), 144);
    }
}
