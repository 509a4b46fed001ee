//! The index of one model's stream: frames become blocks, blocks are found, leased and evicted.

use std::collections::BTreeMap;

use bus::{IndexEvent, StreamState};
use protocol::{BlockFrame, BlockHash, RequestKey};
use scheduling::residency::{Residency, ResidencyLimits, ResidencyTotals};

/// Bytes that the stream stores beside a frame's body: subject, headers, record. Rounded up.
const FRAME_OVERHEAD_BYTES: u64 = 512;

/// A block that the index has forgotten and that is to be deleted from the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Eviction {
    pub(crate) hash: BlockHash,
    /// The sequence of its last frame; frames stored later under the same hash stay.
    pub(crate) through: u64,
}

/// The index of one model's stream. Pure: time is an argument.
pub(crate) struct StreamIndex {
    residency: Residency,
    known: BTreeMap<BlockHash, KnownBlock>,
    /// The block of each frame, by sequence: the stream drops its oldest frames first.
    frames: BTreeMap<u64, BlockHash>,
    caught_up: bool,
}

/// A block with at least one stored frame.
struct KnownBlock {
    header: BlockFrame,
    /// Sequences of its frames, by index.
    frames: BTreeMap<u32, u64>,
}

impl KnownBlock {
    fn is_whole(&self) -> bool {
        self.frames.len() == self.header.frames as usize
    }

    fn bytes(&self) -> u64 {
        u64::from(self.header.block_bytes) + FRAME_OVERHEAD_BYTES * u64::from(self.header.frames)
    }

    fn through(&self) -> u64 {
        self.frames.values().copied().max().unwrap_or_default()
    }
}

impl StreamIndex {
    pub(crate) fn new(limits: ResidencyLimits) -> Self {
        Self {
            residency: Residency::new(limits),
            known: BTreeMap::new(),
            frames: BTreeMap::new(),
            caught_up: false,
        }
    }

    /// Returns true once every frame that was stored before is indexed.
    pub(crate) fn caught_up(&self) -> bool {
        self.caught_up
    }

    pub(crate) fn totals(&self) -> ResidencyTotals {
        self.residency.totals()
    }

    /// Applies an event of the stream.
    pub(crate) fn on_event(&mut self, event: &IndexEvent) {
        match event {
            IndexEvent::Stored { hash, frame, sequence, .. } => {
                self.stored(*hash, frame, *sequence);
            }
            IndexEvent::CaughtUp => self.caught_up = true,
            IndexEvent::Interrupted { .. } => self.caught_up = false,
            IndexEvent::Restarted => {
                self.residency.clear();
                self.known.clear();
                self.frames.clear();
                self.caught_up = false;
            }
        }
    }

    fn stored(&mut self, hash: BlockHash, header: &BlockFrame, sequence: u64) {
        let known = self
            .known
            .entry(hash)
            .or_insert_with(|| KnownBlock { header: header.clone(), frames: BTreeMap::new() });
        // A worker with another layout may have stored the block again.
        let BlockFrame { frames, block_bytes, scope, .. } = known.header;
        if (frames, block_bytes, scope) != (header.frames, header.block_bytes, header.scope) {
            let stale = std::mem::take(&mut known.frames);
            known.header = header.clone();
            for sequence in stale.values() {
                self.frames.remove(sequence);
            }
            self.residency.removed(hash);
        }
        if let Some(before) = known.frames.insert(header.frame, sequence) {
            self.frames.remove(&before);
        }
        self.frames.insert(sequence, hash);
        if known.is_whole() {
            self.residency.stored(hash, known.header.scope, known.bytes());
        }
    }

    /// Leases the longest stored prefix of `blocks` and returns its length.
    pub(crate) fn lookup(
        &mut self,
        blocks: &[BlockHash],
        key: RequestKey,
        lease_ms: u32,
        now_ms: u64,
    ) -> usize {
        self.residency.lookup(blocks, key, lease_ms, now_ms)
    }

    pub(crate) fn release(&mut self, key: RequestKey) {
        self.residency.release(key);
    }

    /// Ends the leases that have expired.
    pub(crate) fn expire_leases(&mut self, now_ms: u64) {
        self.residency.expire(now_ms);
    }

    /// Forgets blocks until the rest fits and returns them. While the index is catching up it does
    /// not know which blocks are in use, and evicts nothing.
    pub(crate) fn evict(&mut self, now_ms: u64) -> Vec<Eviction> {
        if !self.caught_up {
            return Vec::new();
        }
        let evicted = self.residency.evict(now_ms);
        evicted.into_iter().filter_map(|hash| self.forget(hash)).collect()
    }

    /// Forgets a damaged block, leased or not.
    pub(crate) fn discard(&mut self, hash: BlockHash) -> Option<Eviction> {
        self.residency.removed(hash);
        self.forget(hash)
    }

    /// Forgets the blocks whose frames the stream no longer has, because of their age, its limits
    /// or a deletion from its old end. Returns the number of blocks that expired.
    pub(crate) fn reconcile(&mut self, state: &StreamState) -> u64 {
        let kept = self.frames.split_off(&state.first_sequence);
        let gone = std::mem::replace(&mut self.frames, kept);
        let mut expired = 0;
        for (sequence, hash) in gone {
            expired += u64::from(self.residency.removed(hash));
            let Some(known) = self.known.get_mut(&hash) else { continue };
            known.frames.retain(|_, stored| *stored != sequence);
            if known.frames.is_empty() {
                self.known.remove(&hash);
            }
        }
        expired
    }

    fn forget(&mut self, hash: BlockHash) -> Option<Eviction> {
        let known = self.known.remove(&hash)?;
        for sequence in known.frames.values() {
            self.frames.remove(sequence);
        }
        Some(Eviction { hash, through: known.through() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{Attempt, RequestId, Scope};

    const KEY: RequestKey = RequestKey { request: RequestId(1), attempt: Attempt(0) };

    fn hash(n: u8) -> BlockHash {
        BlockHash([n; 16])
    }

    fn index() -> StreamIndex {
        StreamIndex::new(ResidencyLimits { bytes_max: 16 * 1_512, quota_share: 1.0 })
    }

    fn frame(frame: u32, frames: u32, block_bytes: u32) -> BlockFrame {
        let (tokens, scope, checksum) = (16, Scope::shared(), [0; 32]);
        BlockFrame { frame, frames, tokens, block_bytes, scope, checksum }
    }

    fn store(index: &mut StreamIndex, n: u8, header: BlockFrame, sequence: u64) {
        index.on_event(&IndexEvent::Stored {
            hash: hash(n),
            frame: header,
            sequence,
            stored_at_ms: 1,
        });
    }

    fn stored(index: &mut StreamIndex, n: u8) -> bool {
        index.lookup(&[hash(n)], KEY, 0, 0) == 1
    }

    #[test]
    fn a_block_counts_when_its_last_frame_is_there() {
        let mut index = index();
        store(&mut index, 1, frame(1, 2, 3 << 20), 5);
        assert!(!stored(&mut index, 1));
        store(&mut index, 1, frame(1, 2, 3 << 20), 6);
        assert!(!stored(&mut index, 1));
        store(&mut index, 1, frame(0, 2, 3 << 20), 7);
        assert!(stored(&mut index, 1));
        assert_eq!(index.totals().bytes, (3 << 20) + 1_024);
        assert_eq!(index.discard(hash(1)), Some(Eviction { hash: hash(1), through: 7 }));
        assert_eq!(index.discard(hash(1)), None);
    }

    #[test]
    fn what_the_stream_dropped_is_forgotten() {
        let mut index = index();
        for n in 1..5 {
            store(&mut index, n, frame(0, 1, 1_000), n.into());
        }
        store(&mut index, 9, frame(0, 2, 3 << 20), 2_000);
        store(&mut index, 9, frame(1, 2, 3 << 20), 2_002);
        let state = |first_sequence| StreamState { first_sequence, ..Default::default() };
        assert_eq!(index.reconcile(&state(1)), 0);
        assert_eq!(index.reconcile(&state(3)), 2);
        assert!(!stored(&mut index, 2) && stored(&mut index, 3) && stored(&mut index, 9));
        assert_eq!(index.reconcile(&state(2_001)), 3);
        assert_eq!(index.totals(), ResidencyTotals::default());
        // The half that is left becomes a block again when the other half is put again.
        store(&mut index, 9, frame(0, 2, 3 << 20), 2_003);
        assert!(stored(&mut index, 9));
    }

    #[test]
    fn nothing_is_evicted_before_the_index_has_caught_up() {
        let mut index = index();
        for n in 0..16 {
            store(&mut index, n, frame(0, 1, 1_000), n.into());
        }
        assert_eq!(index.evict(0), []);
        index.on_event(&IndexEvent::CaughtUp);
        let evictions: Vec<_> = index.evict(0);
        assert_eq!(evictions.len(), 2);
        assert_eq!(evictions[1], Eviction { hash: hash(1), through: 1 });
        assert!(!stored(&mut index, 0) && stored(&mut index, 2));
        // Stored again after its eviction, it counts again.
        store(&mut index, 0, frame(0, 1, 1_000), 20);
        assert!(stored(&mut index, 0));
    }

    #[test]
    fn a_block_of_another_size_replaces_the_known_one() {
        let mut index = index();
        store(&mut index, 1, frame(0, 1, 1_000), 1);
        store(&mut index, 1, frame(0, 1, 2_000), 2);
        assert_eq!(index.totals().bytes, 2_512);
        assert_eq!(index.discard(hash(1)), Some(Eviction { hash: hash(1), through: 2 }));
        assert_eq!(index.totals(), ResidencyTotals::default());
        assert!(index.frames.is_empty());
    }

    #[test]
    fn a_stream_created_again_is_empty() {
        let mut index = index();
        store(&mut index, 1, frame(0, 1, 1_000), 1);
        index.on_event(&IndexEvent::CaughtUp);
        index.on_event(&IndexEvent::Restarted);
        assert!(!index.caught_up() && !stored(&mut index, 1));
    }
}
