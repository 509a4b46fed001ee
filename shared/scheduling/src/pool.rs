//! KV pages of one worker: their holders and their names.
//!
//! A page is free, or cached (holds a named block that no sequence uses), or leased (held by at least
//! one sequence). Blocks that lose their last holder stay named until their page is needed, so the
//! cached pages double as the worker's prefix cache (after nano-vllm's block manager).

use std::collections::BTreeMap;

use protocol::{BlockHash, PoolState};

/// Index of a KV page in the model's pool.
pub type Page = u32;

#[derive(Clone, Debug, Default)]
struct Slot {
    holders: u32,
    name: Option<BlockHash>,
    /// Key into `cached` while no sequence holds the page.
    cached_at: Option<u64>,
}

/// All pages of a worker.
#[derive(Clone, Debug)]
pub struct BlockPool {
    slots: Vec<Slot>,
    free: Vec<Page>,
    /// Least recently released first.
    cached: BTreeMap<u64, Page>,
    by_name: BTreeMap<BlockHash, Page>,
    releases: u64,
}

impl BlockPool {
    /// Returns a pool of `pages` free pages.
    pub fn new(pages: u32) -> Self {
        Self {
            slots: vec![Slot::default(); pages as usize],
            free: (0..pages).rev().collect(),
            cached: BTreeMap::new(),
            by_name: BTreeMap::new(),
            releases: 0,
        }
    }

    /// Returns the number of pages that [`Self::take`] could hand out now.
    pub fn available(&self) -> usize {
        self.free.len() + self.cached.len()
    }

    /// Returns the number of all pages.
    pub fn total(&self) -> usize {
        self.slots.len()
    }

    /// Returns how many of `names`, from the first on, are here.
    pub fn longest_prefix(&self, names: &[BlockHash]) -> usize {
        names.iter().take_while(|name| self.by_name.contains_key(name)).count()
    }

    /// Returns how many of `names` would leave the cached pages by being shared.
    pub fn cached_among(&self, names: &[BlockHash]) -> usize {
        names
            .iter()
            .filter_map(|name| self.by_name.get(name))
            .filter(|page| self.slots[**page as usize].holders == 0)
            .count()
    }

    /// Holds the page of a named block, without copying it.
    pub fn share(&mut self, name: &BlockHash) -> Option<Page> {
        let page = *self.by_name.get(name)?;
        let slot = &mut self.slots[page as usize];
        if let Some(at) = slot.cached_at.take() {
            self.cached.remove(&at);
        }
        slot.holders += 1;
        Some(page)
    }

    /// Holds an unnamed page: a free one, else the one whose block was released longest ago.
    pub fn take(&mut self) -> Option<Page> {
        let page = match self.free.pop() {
            Some(page) => page,
            None => self.cached.pop_first()?.1,
        };
        let slot = &mut self.slots[page as usize];
        if let Some(name) = slot.name.take() {
            self.by_name.remove(&name);
        }
        *slot = Slot { holders: 1, ..Slot::default() };
        Some(page)
    }

    /// Names the block in a held page. The first page of a name keeps it.
    pub fn name(&mut self, page: Page, name: BlockHash) {
        let slot = &mut self.slots[page as usize];
        assert!(slot.holders > 0, "page {page} is named while no sequence holds it");
        if slot.name.is_none() && !self.by_name.contains_key(&name) {
            slot.name = Some(name);
            self.by_name.insert(name, page);
        }
    }

    /// Releases a page.
    pub fn release(&mut self, page: Page) {
        let slot = &mut self.slots[page as usize];
        assert!(slot.holders > 0, "page {page} is released while no sequence holds it");
        slot.holders -= 1;
        if slot.holders != 0 {
            return;
        }
        if slot.name.is_none() {
            self.free.push(page);
        } else {
            self.releases += 1;
            slot.cached_at = Some(self.releases);
            self.cached.insert(self.releases, page);
        }
    }

    /// Returns the state of the pages, given the holds that the sequences know of, one item each: a hold that
    /// no sequence accounts for is a leak.
    pub fn state(&self, known_holds: impl IntoIterator<Item = Page>) -> PoolState {
        let mut known = vec![0u32; self.slots.len()];
        for page in known_holds {
            known[page as usize] += 1;
        }
        let leased = self.slots.iter().filter(|slot| slot.holders > 0).count();
        let leaked =
            self.slots.iter().zip(known).filter(|(slot, known)| slot.holders != *known).count();
        PoolState {
            free: self.free.len() as u32,
            cached: self.cached.len() as u32,
            leased: leased as u32,
            total: self.slots.len() as u32,
            leaked: leaked as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(of: u8) -> BlockHash {
        BlockHash([of; 16])
    }

    #[test]
    fn a_released_block_is_found_again_until_its_page_is_needed() {
        let mut pool = BlockPool::new(1);
        let page = pool.take().unwrap();
        pool.name(page, name(1));
        pool.release(page);
        assert_eq!(pool.share(&name(1)), Some(page));
        pool.release(page);
        assert_eq!(pool.take(), Some(page));
        assert_eq!(pool.share(&name(1)), None);
    }

    #[test]
    fn the_block_released_longest_ago_goes_first() {
        let mut pool = BlockPool::new(2);
        let (a, b) = (pool.take().unwrap(), pool.take().unwrap());
        pool.name(a, name(1));
        pool.name(b, name(2));
        pool.release(b);
        pool.release(a);
        assert_eq!(pool.take(), Some(b));
        assert_eq!(pool.longest_prefix(&[name(1), name(2)]), 1);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Take,
        Share(u8),
        Name(usize, u8),
        Release(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Take),
            (0u8..6).prop_map(Step::Share),
            (0usize..8, 0u8..6).prop_map(|(at, of)| Step::Name(at, of)),
            (0usize..8).prop_map(Step::Release),
        ]
    }

    proptest! {
        #[test]
        fn no_page_is_lost_or_held_twice_unnamed(steps in prop::collection::vec(step(), 0..200)) {
            let mut pool = BlockPool::new(5);
            let mut held: Vec<Page> = Vec::new();
            for step in steps {
                match step {
                    Step::Take => if let Some(page) = pool.take() {
                        prop_assert!(!held.contains(&page), "page {} handed out twice", page);
                        held.push(page);
                    },
                    Step::Share(of) => held.extend(pool.share(&name(of))),
                    Step::Name(at, of) => if let Some(page) = held.get(at) {
                        pool.name(*page, name(of));
                    },
                    Step::Release(at) => if at < held.len() {
                        pool.release(held.swap_remove(at));
                    },
                }
                let state = pool.state(held.iter().copied());
                prop_assert_eq!(state.free + state.cached + state.leased, state.total);
                prop_assert_eq!(state.leaked, 0);
            }
        }
    }
}
