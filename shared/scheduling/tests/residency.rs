//! The residency index against a plain model of it.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use protocol::{Attempt, BlockHash, RequestId, RequestKey, Scope};
use scheduling::residency::{Residency, ResidencyLimits, ResidencyTotals};

fn block(n: u8) -> BlockHash {
    BlockHash([n; 16])
}

fn chain(blocks: std::ops::Range<u8>) -> Vec<BlockHash> {
    blocks.map(block).collect()
}

fn key(n: u8) -> RequestKey {
    RequestKey { request: RequestId(n.into()), attempt: Attempt(0) }
}

#[derive(Clone, Debug)]
enum Step {
    Store(u8, bool, u16),
    Remove(u8),
    Lookup(u8, u8, u8, u32),
    Release(u8),
    Evict,
    Wait(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u8..40, any::<bool>(), 1u16..400).prop_map(|(b, s, n)| Step::Store(b, s, n)),
        1 => (0u8..40).prop_map(Step::Remove),
        3 => (0u8..40, 0u8..10, 0u8..6, 0u32..300)
            .prop_map(|(from, n, k, lease_ms)| Step::Lookup(from, n, k, lease_ms)),
        1 => (0u8..6).prop_map(Step::Release),
        2 => Just(Step::Evict),
        1 => (0u16..400).prop_map(Step::Wait),
    ]
}

/// The same, slowly and plainly.
#[derive(Default)]
struct Model {
    blocks: BTreeMap<BlockHash, u64>,
    leases: BTreeMap<RequestKey, (u64, BTreeSet<BlockHash>)>,
    now_ms: u64,
}

impl Model {
    fn leased(&self) -> BTreeSet<BlockHash> {
        self.leases.values().flat_map(|(_, blocks)| blocks.iter().copied()).collect()
    }

    fn remove(&mut self, block: BlockHash) {
        self.blocks.remove(&block);
        self.leases.values_mut().for_each(|(_, blocks)| {
            blocks.remove(&block);
        });
    }

    fn lookup(&mut self, asked: &[BlockHash], key: RequestKey, lease_ms: u32) -> usize {
        let found: Vec<_> =
            asked.iter().take_while(|block| self.blocks.contains_key(block)).collect();
        if lease_ms != 0 && !found.is_empty() {
            let lease = self.leases.entry(key).or_default();
            lease.0 = lease.0.max(self.now_ms + u64::from(lease_ms));
            lease.1.extend(found.iter().copied());
        }
        found.len()
    }

    fn expire(&mut self) {
        let now_ms = self.now_ms;
        self.leases.retain(|_, (until_ms, _)| now_ms < *until_ms);
    }
}

proptest! {
    #[test]
    fn behaves_like_the_plain_model(steps in prop::collection::vec(step(), 1..120)) {
        let limits = ResidencyLimits { bytes_max: 3_200, quota_share: 0.5 };
        let mut residency = Residency::new(limits);
        let mut model = Model::default();
        let scopes = [Scope::of_tenant("a", None), Scope::of_tenant("b", None)];
        for step in steps {
            model.expire();
            residency.expire(model.now_ms);
            match step {
                Step::Store(n, scope, bytes) => {
                    residency.stored(block(n), scopes[usize::from(scope)], bytes.into());
                    model.blocks.entry(block(n)).or_insert(bytes.into());
                }
                Step::Remove(n) => {
                    let known = model.blocks.contains_key(&block(n));
                    prop_assert_eq!(residency.removed(block(n)), known);
                    model.remove(block(n));
                }
                Step::Lookup(from, count, k, lease_ms) => {
                    let asked = chain(from..from + count);
                    let found = residency.lookup(&asked, key(k), lease_ms, model.now_ms);
                    prop_assert_eq!(found, model.lookup(&asked, key(k), lease_ms));
                }
                Step::Release(k) => {
                    let held = model.leases.remove(&key(k)).is_some();
                    prop_assert_eq!(residency.release(key(k)), held);
                }
                Step::Evict => {
                    let bytes = residency.totals().bytes;
                    let evicted = residency.evict(model.now_ms);
                    let leased = model.leased();
                    prop_assert!(evicted.iter().all(|block| !leased.contains(block)));
                    prop_assert_eq!(evicted.is_empty() || bytes > 3_000, true);
                    evicted.iter().for_each(|block| model.remove(*block));
                    let over = residency.totals().bytes > 3_000;
                    let all_leased = model.blocks.keys().all(|block| leased.contains(block));
                    prop_assert!(!over || all_leased);
                }
                Step::Wait(ms) => model.now_ms += u64::from(ms),
            }
            model.expire();
            residency.expire(model.now_ms);
            prop_assert_eq!(residency.totals(), ResidencyTotals {
                blocks: model.blocks.len() as u64,
                bytes: model.blocks.values().sum(),
                leased_blocks: model.leased().len() as u64,
                leases: model.leases.len() as u64,
            });
        }
    }
}
