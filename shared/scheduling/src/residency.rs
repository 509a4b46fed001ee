//! The blocks that the store keeps, the leases on them, and the order of their eviction.

use std::collections::{BTreeMap, BTreeSet};

use protocol::{BlockHash, RequestKey, Scope};

/// Eviction begins above 15/16 of the bytes allowed and ends at 14/16: the rest is for what is
/// stored while the evicted is being deleted.
const HIGH_WATER_16THS: u64 = 15;
const LOW_WATER_16THS: u64 = 14;
/// Most requests that hold leases at once; a lookup beyond that finds blocks and leases none.
const LEASES_MAX: usize = 65_536;

/// Bounds of the store of one model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ResidencyLimits {
    /// Bytes of all blocks.
    pub bytes_max: u64,
    /// Share of `bytes_max`, 0 to 1, that one scope may hold when room runs out.
    pub quota_share: f64,
}

/// Totals of the store at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResidencyTotals {
    /// Blocks.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blocks under at least one lease.
    pub leased_blocks: u64,
    /// Requests that hold a lease.
    pub leases: u64,
}

/// The index of one model's stored blocks: finds prefixes, leases what it finds, and chooses
/// the evictions when room runs out.
///
/// Least recently used goes first, but never a block under a lease; a scope above its quota loses
/// its own blocks before any other scope loses any. Use is a count of touches, not time, so that
/// equal histories choose equally.
#[derive(Clone, Debug)]
pub struct Residency {
    limits: ResidencyLimits,
    blocks: BTreeMap<BlockHash, Resident>,
    /// Blocks without a lease, by last use.
    idle: BTreeMap<u64, BlockHash>,
    /// The same, by scope and last use.
    idle_of_scope: BTreeMap<(Scope, u64), BlockHash>,
    bytes_of_scope: BTreeMap<Scope, u64>,
    bytes: u64,
    leased_blocks: u64,
    leases: BTreeMap<RequestKey, Lease>,
    lease_ends: BTreeSet<(u64, RequestKey)>,
    /// The last touch; every touch has its own number.
    touches: u64,
}

#[derive(Clone, Debug)]
struct Resident {
    scope: Scope,
    bytes: u64,
    /// Touch that stored it: tells it from an earlier block of the same name.
    stored: u64,
    used: u64,
    leases: u32,
}

#[derive(Clone, Debug)]
struct Lease {
    until_ms: u64,
    /// Blocks from the beginning of the sequence on, each with the touch that stored it.
    blocks: Vec<(BlockHash, u64)>,
}

impl Residency {
    /// Returns an empty index.
    pub fn new(limits: ResidencyLimits) -> Self {
        Self {
            limits,
            blocks: BTreeMap::new(),
            idle: BTreeMap::new(),
            idle_of_scope: BTreeMap::new(),
            bytes_of_scope: BTreeMap::new(),
            bytes: 0,
            leased_blocks: 0,
            leases: BTreeMap::new(),
            lease_ends: BTreeSet::new(),
            touches: 0,
        }
    }

    /// Adds a stored block. One that is known already stays as it is.
    pub fn stored(&mut self, block: BlockHash, scope: Scope, bytes: u64) {
        if self.blocks.contains_key(&block) {
            return;
        }
        self.touches += 1;
        let touch = self.touches;
        self.blocks.insert(block, Resident { scope, bytes, stored: touch, used: touch, leases: 0 });
        self.bytes += bytes;
        *self.bytes_of_scope.entry(scope).or_default() += bytes;
        self.idle.insert(touch, block);
        self.idle_of_scope.insert((scope, touch), block);
    }

    /// Removes a block, leased or not. Returns whether it was known.
    pub fn removed(&mut self, block: BlockHash) -> bool {
        let Some(resident) = self.blocks.remove(&block) else { return false };
        self.bytes -= resident.bytes;
        if let Some(bytes) = self.bytes_of_scope.get_mut(&resident.scope) {
            *bytes -= resident.bytes;
            if *bytes == 0 {
                self.bytes_of_scope.remove(&resident.scope);
            }
        }
        if resident.leases == 0 {
            self.idle.remove(&resident.used);
            self.idle_of_scope.remove(&(resident.scope, resident.used));
        } else {
            self.leased_blocks -= 1;
        }
        true
    }

    /// Forgets every block and lease, as when the store was recreated.
    pub fn clear(&mut self) {
        *self = Self::new(self.limits);
    }

    /// Returns whether the block is stored.
    pub fn contains(&self, block: BlockHash) -> bool {
        self.blocks.contains_key(&block)
    }

    /// Returns how many of `chain`, from the first on, are stored. They count as used now, and stay for
    /// `lease_ms` or until [`Self::release`]; 0 takes no lease. Asking again with the same key
    /// adds to its lease and never shortens it.
    pub fn lookup(
        &mut self,
        chain: &[BlockHash],
        key: RequestKey,
        lease_ms: u32,
        now_ms: u64,
    ) -> usize {
        self.expire(now_ms);
        let count = chain.iter().take_while(|block| self.blocks.contains_key(block)).count();
        let found = &chain[..count];
        let room = self.leases.len() < LEASES_MAX || self.leases.contains_key(&key);
        if lease_ms != 0 && count != 0 && room {
            self.lease(found, key, now_ms + u64::from(lease_ms));
        }
        self.touch(found.iter().rev().copied());
        count
    }

    /// Ends the lease of a request. Returns whether it had one.
    pub fn release(&mut self, key: RequestKey) -> bool {
        let Some(lease) = self.leases.remove(&key) else { return false };
        self.lease_ends.remove(&(lease.until_ms, key));
        for &(block, stored) in &lease.blocks {
            self.unlease(block, stored);
        }
        // Blocks that the request stored meanwhile follow these and are worth nothing without
        // them: these must not look older.
        self.touch(lease.blocks.into_iter().rev().map(|(block, _)| block));
        true
    }

    /// Ends the leases whose time is over; returns how many.
    pub fn expire(&mut self, now_ms: u64) -> usize {
        let mut expired = 0;
        while let Some(&(until_ms, key)) = self.lease_ends.first() {
            if now_ms < until_ms {
                break;
            }
            self.release(key);
            expired += 1;
        }
        expired
    }

    /// Chooses the blocks to delete, and forgets them. Returns none while there is room.
    pub fn evict(&mut self, now_ms: u64) -> Vec<BlockHash> {
        self.expire(now_ms);
        let mut evicted = Vec::new();
        if self.bytes <= self.limits.bytes_max / 16 * HIGH_WATER_16THS {
            return evicted;
        }
        let low_water = self.limits.bytes_max / 16 * LOW_WATER_16THS;
        while low_water < self.bytes {
            let Some(block) = self.first_to_go() else { break };
            self.removed(block);
            evicted.push(block);
        }
        evicted
    }

    /// Returns the totals of the store.
    pub fn totals(&self) -> ResidencyTotals {
        ResidencyTotals {
            blocks: self.blocks.len() as u64,
            bytes: self.bytes,
            leased_blocks: self.leased_blocks,
            leases: self.leases.len() as u64,
        }
    }

    /// Returns the oldest block of the scope that is furthest above its quota, else the oldest of all.
    fn first_to_go(&self) -> Option<BlockHash> {
        let quota = (self.limits.bytes_max as f64 * self.limits.quota_share) as u64;
        let above = self.bytes_of_scope.iter().filter(|(_, bytes)| quota < **bytes);
        above
            .filter_map(|(scope, bytes)| {
                let mut idle = self.idle_of_scope.range((*scope, 0)..=(*scope, u64::MAX));
                idle.next().map(|(_, block)| (bytes, *block))
            })
            .max_by_key(|(bytes, _)| **bytes)
            .map(|(_, block)| block)
            .or_else(|| self.idle.first_key_value().map(|(_, block)| *block))
    }

    fn lease(&mut self, found: &[BlockHash], key: RequestKey, until_ms: u64) {
        let mut lease =
            self.leases.remove(&key).unwrap_or(Lease { until_ms: 0, blocks: Vec::new() });
        self.lease_ends.remove(&(lease.until_ms, key));
        lease.until_ms = lease.until_ms.max(until_ms);
        let held: BTreeSet<_> = lease.blocks.iter().copied().collect();
        let mut first_holders = 0;
        for block in found {
            let Some(resident) = self.blocks.get_mut(block) else { continue };
            if held.contains(&(*block, resident.stored)) {
                continue;
            }
            lease.blocks.push((*block, resident.stored));
            resident.leases += 1;
            if resident.leases == 1 {
                first_holders += 1;
                self.idle.remove(&resident.used);
                self.idle_of_scope.remove(&(resident.scope, resident.used));
            }
        }
        self.leased_blocks += first_holders;
        self.lease_ends.insert((lease.until_ms, key));
        self.leases.insert(key, lease);
    }

    fn unlease(&mut self, block: BlockHash, stored: u64) {
        let Some(resident) = self.blocks.get_mut(&block) else { return };
        if resident.stored != stored {
            return;
        }
        resident.leases -= 1;
        if resident.leases == 0 {
            self.leased_blocks -= 1;
            self.idle.insert(resident.used, block);
            self.idle_of_scope.insert((resident.scope, resident.used), block);
        }
    }

    /// Marks blocks as used now. Later in `blocks` is used later: sequences come in backwards, so
    /// that their ends go before their beginnings.
    fn touch(&mut self, blocks: impl Iterator<Item = BlockHash>) {
        for block in blocks {
            let Some(resident) = self.blocks.get_mut(&block) else { continue };
            self.touches += 1;
            let before = std::mem::replace(&mut resident.used, self.touches);
            if resident.leases == 0 {
                self.idle.remove(&before);
                self.idle.insert(resident.used, block);
                self.idle_of_scope.remove(&(resident.scope, before));
                self.idle_of_scope.insert((resident.scope, resident.used), block);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{Attempt, RequestId};

    fn block(n: u8) -> BlockHash {
        BlockHash([n; 16])
    }

    fn chain(blocks: std::ops::Range<u8>) -> Vec<BlockHash> {
        blocks.map(block).collect()
    }

    fn key(n: u8) -> RequestKey {
        RequestKey { request: RequestId(n.into()), attempt: Attempt(0) }
    }

    fn empty(bytes_max: u64, quota_share: f64) -> Residency {
        Residency::new(ResidencyLimits { bytes_max, quota_share })
    }

    fn store(residency: &mut Residency, blocks: std::ops::Range<u8>, scope: Scope) {
        blocks.for_each(|n| residency.stored(block(n), scope, 100));
    }

    #[test]
    fn the_longest_prefix_ends_at_the_first_gap() {
        let mut residency = empty(10_000, 1.0);
        store(&mut residency, 0..3, Scope::shared());
        store(&mut residency, 4..6, Scope::shared());
        assert_eq!(residency.lookup(&chain(0..6), key(1), 0, 0), 3);
        assert_eq!(residency.lookup(&chain(3..6), key(1), 0, 0), 0);
    }

    #[test]
    fn the_least_recently_used_goes_first_and_an_end_before_its_beginning() {
        let mut residency = empty(1_600, 1.0);
        store(&mut residency, 0..14, Scope::shared());
        assert!(residency.evict(0).is_empty());
        residency.lookup(&chain(0..4), key(1), 0, 0);
        store(&mut residency, 14..17, Scope::shared());
        assert_eq!(residency.evict(0), chain(4..7));
        residency.lookup(&chain(7..17), key(1), 0, 0);
        store(&mut residency, 20..22, Scope::shared());
        assert_eq!(residency.evict(0), [block(3), block(2)]);
    }

    #[test]
    fn a_lease_protects_until_released_or_expired() {
        for by_time in [true, false] {
            let mut residency = empty(1_600, 1.0);
            store(&mut residency, 0..16, Scope::shared());
            assert_eq!(residency.lookup(&chain(0..16), key(1), 1_000, 5_000), 16);
            assert_eq!(residency.evict(5_999), []);
            let later_ms = if by_time { 6_000 } else { 5_999 };
            assert!(by_time || residency.release(key(1)));
            assert_eq!(residency.evict(later_ms).len(), 2);
            assert_eq!(residency.totals().leases, 0);
        }
    }

    #[test]
    fn asking_again_never_shortens_a_lease() {
        let mut residency = empty(1_600, 1.0);
        store(&mut residency, 0..2, Scope::shared());
        residency.lookup(&chain(0..1), key(1), 1_000, 0);
        residency.lookup(&chain(0..2), key(1), 10, 0);
        assert_eq!(residency.expire(999), 0);
        assert_eq!(residency.totals().leased_blocks, 2);
        assert_eq!(residency.expire(1_000), 1);
        assert_eq!(residency.totals().leased_blocks, 0);
    }

    #[test]
    fn what_a_request_stored_goes_before_what_it_built_on() {
        let mut residency = empty(1_600, 1.0);
        store(&mut residency, 0..8, Scope::shared());
        residency.lookup(&chain(0..8), key(1), 1_000, 0);
        store(&mut residency, 8..16, Scope::shared());
        residency.release(key(1));
        assert_eq!(residency.evict(0), [block(8), block(9)]);
    }

    #[test]
    fn a_scope_above_its_quota_pays_first() {
        let (greedy, modest) = (Scope::of_tenant("a", None), Scope::of_tenant("b", None));
        let mut residency = empty(1_600, 0.5);
        store(&mut residency, 0..4, modest);
        store(&mut residency, 4..16, greedy);
        assert_eq!(residency.evict(0), chain(4..6));
        // At its quota it pays no more: the oldest block of all goes.
        let mut residency = empty(1_600, 0.5);
        store(&mut residency, 0..8, modest);
        store(&mut residency, 8..16, greedy);
        assert_eq!(residency.evict(0), chain(0..2));
    }

    #[test]
    fn a_block_stored_again_owes_nothing_to_old_leases() {
        let mut residency = empty(1_600, 1.0);
        store(&mut residency, 0..1, Scope::shared());
        residency.lookup(&chain(0..1), key(1), 1_000, 0);
        assert!(residency.removed(block(0)));
        store(&mut residency, 0..1, Scope::shared());
        residency.lookup(&chain(0..1), key(2), 1_000, 0);
        assert!(residency.release(key(1)));
        assert_eq!(residency.totals().leased_blocks, 1);
    }
}
