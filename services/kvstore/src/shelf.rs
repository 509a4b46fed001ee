//! The index of one model's stream: frames become blocks, blocks are found, leased and evicted.

use std::collections::BTreeMap;

use bus::{IndexEvent, StreamState};
use protocol::{BlockFrame, BlockHash, RequestKey};
use scheduling::residency::{Residency, ResidencyLimits, ResidencyTotals};

/// What the stream keeps beside a frame's body: subject, headers, record. Rounded up.
const FRAME_OVERHEAD_BYTES: u64 = 512;

/// A block to be deleted from the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Doomed {
    pub(crate) block: BlockHash,
    /// Its last frame; what is stored later under its name stays.
    pub(crate) through: u64,
}

/// What is known about one model's stream. Pure: time is an argument.
pub(crate) struct Shelf {
    residency: Residency,
    known: BTreeMap<BlockHash, Known>,
    /// Which block has a frame at a sequence: the stream loses its oldest first.
    frames: BTreeMap<u64, BlockHash>,
    caught_up: bool,
}

/// A block of which frames are stored.
struct Known {
    header: BlockFrame,
    /// Sequences of its frames, by index.
    frames: BTreeMap<u32, u64>,
}

impl Known {
    fn whole(&self) -> bool {
        self.frames.len() == self.header.frames as usize
    }

    fn bytes(&self) -> u64 {
        u64::from(self.header.block_bytes) + FRAME_OVERHEAD_BYTES * u64::from(self.header.frames)
    }

    fn through(&self) -> u64 {
        self.frames.values().copied().max().unwrap_or_default()
    }
}

impl Shelf {
    pub(crate) fn new(limits: ResidencyLimits) -> Self {
        Self {
            residency: Residency::new(limits),
            known: BTreeMap::new(),
            frames: BTreeMap::new(),
            caught_up: false,
        }
    }

    /// True when everything that was stored before is known.
    pub(crate) fn caught_up(&self) -> bool {
        self.caught_up
    }

    pub(crate) fn totals(&self) -> ResidencyTotals {
        self.residency.totals()
    }

    /// Takes what the stream tells.
    pub(crate) fn told(&mut self, event: &IndexEvent) {
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

    fn stored(&mut self, block: BlockHash, header: &BlockFrame, sequence: u64) {
        let known = self
            .known
            .entry(block)
            .or_insert_with(|| Known { header: header.clone(), frames: BTreeMap::new() });
        // A block that shrank or grew was stored anew by somebody else's rules.
        let of = |frame: &BlockFrame| (frame.frames, frame.block_bytes, frame.scope);
        if of(&known.header) != of(header) {
            let stale = std::mem::take(&mut known.frames);
            known.header = header.clone();
            for sequence in stale.values() {
                self.frames.remove(sequence);
            }
            self.residency.removed(block);
        }
        if let Some(before) = known.frames.insert(header.frame, sequence) {
            self.frames.remove(&before);
        }
        self.frames.insert(sequence, block);
        if known.whole() {
            self.residency.stored(block, known.header.scope, known.bytes());
        }
    }

    /// How many of the asked blocks, from the first on, are stored; leases them.
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

    /// Ends leases whose time is over.
    pub(crate) fn expire(&mut self, now_ms: u64) {
        self.residency.expire(now_ms);
    }

    /// Forgets what has to go for lack of room, and names it. While the index is catching up,
    /// nobody's use is known yet and nothing goes.
    pub(crate) fn evict(&mut self, now_ms: u64) -> Vec<Doomed> {
        if !self.caught_up {
            return Vec::new();
        }
        let evicted = self.residency.evict(now_ms);
        evicted.into_iter().filter_map(|block| self.forget(block)).collect()
    }

    /// Forgets a block that is of no use, leased or not.
    pub(crate) fn discard(&mut self, block: BlockHash) -> Option<Doomed> {
        self.residency.removed(block);
        self.forget(block)
    }

    /// Forgets what the stream has dropped by itself: by age, by its own limits, or deleted by
    /// somebody else from the old end. Returns how many blocks were lost.
    pub(crate) fn reconcile(&mut self, state: &StreamState) -> u64 {
        let kept = self.frames.split_off(&state.first_sequence);
        let gone = std::mem::replace(&mut self.frames, kept);
        let mut lost = 0;
        for (sequence, block) in gone {
            lost += u64::from(self.residency.removed(block));
            let Some(known) = self.known.get_mut(&block) else { continue };
            known.frames.retain(|_, stored| *stored != sequence);
            if known.frames.is_empty() {
                self.known.remove(&block);
            }
        }
        lost
    }

    fn forget(&mut self, block: BlockHash) -> Option<Doomed> {
        let known = self.known.remove(&block)?;
        for sequence in known.frames.values() {
            self.frames.remove(sequence);
        }
        Some(Doomed { block, through: known.through() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{Attempt, RequestId, Scope};

    const KEY: RequestKey = RequestKey { request: RequestId(1), attempt: Attempt(0) };

    fn block(n: u8) -> BlockHash {
        BlockHash([n; 16])
    }

    fn shelf() -> Shelf {
        Shelf::new(ResidencyLimits { bytes_max: 16 * 1_512, quota_share: 1.0 })
    }

    fn frame(frame: u32, frames: u32, block_bytes: u32) -> BlockFrame {
        let (tokens, scope, checksum) = (16, Scope::shared(), [0; 32]);
        BlockFrame { frame, frames, tokens, block_bytes, scope, checksum }
    }

    fn store(shelf: &mut Shelf, n: u8, header: BlockFrame, sequence: u64) {
        shelf.told(&IndexEvent::Stored {
            hash: block(n),
            frame: header,
            sequence,
            stored_at_ms: 1,
        });
    }

    fn stored(shelf: &mut Shelf, n: u8) -> bool {
        shelf.lookup(&[block(n)], KEY, 0, 0) == 1
    }

    #[test]
    fn a_block_counts_when_its_last_frame_is_there() {
        let mut shelf = shelf();
        store(&mut shelf, 1, frame(1, 2, 3 << 20), 5);
        assert!(!stored(&mut shelf, 1));
        store(&mut shelf, 1, frame(1, 2, 3 << 20), 6);
        assert!(!stored(&mut shelf, 1));
        store(&mut shelf, 1, frame(0, 2, 3 << 20), 7);
        assert!(stored(&mut shelf, 1));
        assert_eq!(shelf.totals().bytes, (3 << 20) + 1_024);
        assert_eq!(shelf.discard(block(1)), Some(Doomed { block: block(1), through: 7 }));
        assert_eq!(shelf.discard(block(1)), None);
    }

    #[test]
    fn what_the_stream_dropped_is_forgotten() {
        let mut shelf = shelf();
        for n in 1..5 {
            store(&mut shelf, n, frame(0, 1, 1_000), n.into());
        }
        store(&mut shelf, 9, frame(0, 2, 3 << 20), 2_000);
        store(&mut shelf, 9, frame(1, 2, 3 << 20), 2_002);
        let state = |first_sequence| StreamState { first_sequence, ..Default::default() };
        assert_eq!(shelf.reconcile(&state(1)), 0);
        assert_eq!(shelf.reconcile(&state(3)), 2);
        assert!(!stored(&mut shelf, 2) && stored(&mut shelf, 3) && stored(&mut shelf, 9));
        assert_eq!(shelf.reconcile(&state(2_001)), 3);
        assert_eq!(shelf.totals(), ResidencyTotals::default());
        // The half that is left becomes a block again when the other half is put again.
        store(&mut shelf, 9, frame(0, 2, 3 << 20), 2_003);
        assert!(stored(&mut shelf, 9));
    }

    #[test]
    fn nothing_is_evicted_before_the_index_has_caught_up() {
        let mut shelf = shelf();
        for n in 0..16 {
            store(&mut shelf, n, frame(0, 1, 1_000), n.into());
        }
        assert_eq!(shelf.evict(0), []);
        shelf.told(&IndexEvent::CaughtUp);
        let doomed: Vec<_> = shelf.evict(0);
        assert_eq!(doomed.len(), 2);
        assert_eq!(doomed[1], Doomed { block: block(1), through: 1 });
        assert!(!stored(&mut shelf, 0) && stored(&mut shelf, 2));
        // Stored again after its eviction, it counts again.
        store(&mut shelf, 0, frame(0, 1, 1_000), 20);
        assert!(stored(&mut shelf, 0));
    }

    #[test]
    fn a_block_of_another_size_replaces_the_known_one() {
        let mut shelf = shelf();
        store(&mut shelf, 1, frame(0, 1, 1_000), 1);
        store(&mut shelf, 1, frame(0, 1, 2_000), 2);
        assert_eq!(shelf.totals().bytes, 2_512);
        assert_eq!(shelf.discard(block(1)), Some(Doomed { block: block(1), through: 2 }));
        assert_eq!(shelf.totals(), ResidencyTotals::default());
        assert!(shelf.frames.is_empty());
    }

    #[test]
    fn a_stream_made_anew_is_empty() {
        let mut shelf = shelf();
        store(&mut shelf, 1, frame(0, 1, 1_000), 1);
        shelf.told(&IndexEvent::CaughtUp);
        shelf.told(&IndexEvent::Restarted);
        assert!(!shelf.caught_up() && !stored(&mut shelf, 1));
    }
}
