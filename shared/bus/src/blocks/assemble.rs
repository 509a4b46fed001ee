//! Frames of a block, checked and put together.

use protocol::{BlockFrame, BlockHash};

use super::PulledBlock;
use crate::counters::DropReason;

/// The outcome of a frame.
#[derive(Debug, PartialEq)]
pub(super) enum Accepted {
    /// Frames are still missing.
    Part,
    /// The block is whole.
    Whole(PulledBlock),
    /// The block cannot be used.
    Refused(DropReason, String),
}

/// A block of several frames, of which some have arrived.
#[derive(Default)]
pub(super) struct Assembly {
    first: Option<BlockFrame>,
    bodies: Vec<Option<Vec<u8>>>,
}

impl Assembly {
    /// Accepts the next frame. Bodies are copied out of the read buffer.
    pub(super) fn accept(&mut self, hash: BlockHash, header: &BlockFrame, body: &[u8]) -> Accepted {
        let expected = header.range().len();
        if body.len() != expected {
            let why = format!("frame of {} bytes, expected {expected}", body.len());
            return Accepted::Refused(DropReason::Frame, why);
        }
        if let Err(error) = header.verify(body) {
            return Accepted::Refused(DropReason::Checksum, error.to_string());
        }
        let whole = |bytes| PulledBlock { hash, tokens: header.tokens, bytes };
        if header.frames == 1 {
            return Accepted::Whole(whole(body.to_vec()));
        }
        let first = self.first.get_or_insert_with(|| header.clone());
        let BlockFrame { frames, tokens, block_bytes, scope, .. } = *first;
        if (frames, tokens, block_bytes, scope)
            != (header.frames, header.tokens, header.block_bytes, header.scope)
        {
            let why = format!("frame {header} does not belong to frame {first}");
            return Accepted::Refused(DropReason::Frame, why);
        }
        self.bodies.resize(header.frames as usize, None);
        self.bodies[header.frame as usize] = Some(body.to_vec());
        if self.bodies.iter().any(Option::is_none) {
            return Accepted::Part;
        }
        Accepted::Whole(whole(self.bodies.drain(..).flatten().flatten().collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use protocol::Scope;

    const HASH: BlockHash = BlockHash([9; 16]);

    fn block(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|index| (index / 3) as u8).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn frames_in_any_order_give_the_block(bytes in 0usize..9_000_000, turn in 0usize..8) {
            let block = block(bytes);
            let mut frames = BlockFrame::split(16, Scope::shared(), &block);
            let turn = turn % frames.len();
            frames.rotate_left(turn);
            let mut assembly = Assembly::default();
            let (last, before) = frames.split_last().unwrap();
            for (header, range) in before {
                prop_assert_eq!(assembly.accept(HASH, header, &block[range.clone()]), Accepted::Part);
            }
            let (header, range) = last;
            let whole = assembly.accept(HASH, header, &block[range.clone()]);
            prop_assert_eq!(whole, Accepted::Whole(PulledBlock { hash: HASH, tokens: 16, bytes: block }));
        }
    }

    #[test]
    fn a_repeated_frame_does_not_complete_a_block() {
        let block = block(3 << 20);
        let frames = BlockFrame::split(16, Scope::shared(), &block);
        let mut assembly = Assembly::default();
        let (header, range) = &frames[0];
        for _ in 0..2 {
            assert_eq!(assembly.accept(HASH, header, &block[range.clone()]), Accepted::Part);
        }
    }

    #[test]
    fn damage_and_foreign_frames_are_refused() {
        let block = block(3 << 20);
        let frames = BlockFrame::split(16, Scope::shared(), &block);
        let (first, range) = &frames[0];
        let refused = |accepted| match accepted {
            Accepted::Refused(reason, _) => reason,
            other => panic!("{other:?}"),
        };
        let mut damaged = block[range.clone()].to_vec();
        damaged[77] ^= 1;
        let mut assembly = Assembly::default();
        assert_eq!(refused(assembly.accept(HASH, first, &damaged)), DropReason::Checksum);
        assert_eq!(refused(assembly.accept(HASH, first, &damaged[1..])), DropReason::Frame);
        assert_eq!(assembly.accept(HASH, first, &block[range.clone()]), Accepted::Part);
        let (mut second, range) = frames[1].clone();
        second.tokens = 3;
        assert_eq!(refused(assembly.accept(HASH, &second, &block[range])), DropReason::Frame);
    }
}
