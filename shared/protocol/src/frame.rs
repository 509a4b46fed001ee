//! The header of a block frame, which travels beside the raw bytes of a KV block.

use std::fmt;
use std::str::FromStr;

use crate::blocks::{Scope, hex, parse_hex};

/// Name of the NATS header that carries a [`BlockFrame`].
pub const FRAME_HEADER: &str = "Tandem-Frame";
/// Largest body of one frame: a larger block is split.
pub const FRAME_BYTES_MAX: usize = 2 << 20;
/// Largest block.
pub const BLOCK_BYTES_MAX: usize = 256 << 20;

/// The header of one frame of a block. Written as `v1 frame/frames tokens block_bytes scope checksum`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockFrame {
    /// Index of this frame.
    pub frame: u32,
    /// Frames of the block.
    pub frames: u32,
    /// Tokens in the block: 16, or fewer for a tail.
    pub tokens: u32,
    /// Bytes of the whole block.
    pub block_bytes: u32,
    /// The tenant of the block, for quotas.
    pub scope: Scope,
    /// BLAKE3 of this frame's body.
    pub checksum: [u8; 32],
}

/// A frame that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum FrameError {
    /// The header does not have the written form or its numbers do not fit together.
    #[error("frame header {0:?} is malformed")]
    Malformed(String),
    /// The body is not the one that was stored.
    #[error("checksum of a {bytes}-byte frame does not match")]
    Damaged { bytes: usize },
}

impl BlockFrame {
    /// Splits a block's bytes into bodies of at most [`FRAME_BYTES_MAX`], with their headers.
    pub fn split(tokens: u32, scope: Scope, block: &[u8]) -> Vec<(Self, std::ops::Range<usize>)> {
        let frames = block.len().div_ceil(FRAME_BYTES_MAX).max(1);
        (0..frames)
            .map(|frame| {
                let start = frame * FRAME_BYTES_MAX;
                let end = (start + FRAME_BYTES_MAX).min(block.len());
                let header = Self {
                    frame: frame as u32,
                    frames: frames as u32,
                    tokens,
                    block_bytes: block.len() as u32,
                    scope,
                    checksum: *blake3::hash(&block[start..end]).as_bytes(),
                };
                (header, start..end)
            })
            .collect()
    }

    /// Checks a received body against its header.
    pub fn verify(&self, body: &[u8]) -> Result<(), FrameError> {
        if *blake3::hash(body).as_bytes() == self.checksum {
            Ok(())
        } else {
            Err(FrameError::Damaged { bytes: body.len() })
        }
    }

    /// Returns the range of this frame's body in the block.
    pub fn range(&self) -> std::ops::Range<usize> {
        let start = self.frame as usize * FRAME_BYTES_MAX;
        start..(start + FRAME_BYTES_MAX).min(self.block_bytes as usize)
    }
}

impl fmt::Display for BlockFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { frame, frames, tokens, block_bytes, scope, checksum } = self;
        write!(f, "v1 {frame}/{frames} {tokens} {block_bytes} {scope} {}", hex(checksum))
    }
}

impl FromStr for BlockFrame {
    type Err = FrameError;

    fn from_str(text: &str) -> Result<Self, FrameError> {
        parse(text).ok_or_else(|| FrameError::Malformed(text.chars().take(160).collect()))
    }
}

fn parse(text: &str) -> Option<BlockFrame> {
    let mut parts = text.split(' ');
    if parts.next()? != "v1" {
        return None;
    }
    let (frame, frames) = parts.next()?.split_once('/')?;
    let (frame, frames): (u32, u32) = (frame.parse().ok()?, frames.parse().ok()?);
    let tokens = parts.next()?.parse().ok()?;
    let block_bytes: u32 = parts.next()?.parse().ok()?;
    let (mut scope, mut checksum) = ([0; 16], [0; 32]);
    parse_hex(parts.next()?, &mut scope)?;
    parse_hex(parts.next()?, &mut checksum)?;
    let whole = parts.next().is_none()
        && block_bytes as usize <= BLOCK_BYTES_MAX
        && frames as usize == (block_bytes as usize).div_ceil(FRAME_BYTES_MAX).max(1)
        && frame < frames
        && (1..=crate::BLOCK_TOKENS as u32).contains(&tokens);
    whole.then_some(BlockFrame {
        frame,
        frames,
        tokens,
        block_bytes,
        scope: Scope(scope),
        checksum,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_block_comes_back_whole(bytes in 0usize..5_000_000, fill: u8) {
            let block = vec![fill; bytes];
            let mut joined = vec![0; bytes];
            for (header, range) in BlockFrame::split(16, Scope::shared(), &block) {
                prop_assert_eq!(&header.to_string().parse::<BlockFrame>().unwrap(), &header);
                prop_assert_eq!(header.range(), range.clone());
                prop_assert!(header.verify(&block[range.clone()]).is_ok());
                joined[range.clone()].copy_from_slice(&block[range]);
            }
            prop_assert_eq!(joined, block);
        }

        #[test]
        fn no_header_panics(text in "\\PC{0,200}") {
            let _ = text.parse::<BlockFrame>();
        }
    }

    #[test]
    fn a_flipped_bit_is_seen() {
        let mut block = vec![1; 100];
        let header = BlockFrame::split(16, Scope::shared(), &block).remove(0).0;
        block[99] ^= 1;
        assert_eq!(header.verify(&block), Err(FrameError::Damaged { bytes: 100 }));
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        let good = BlockFrame::split(16, Scope::shared(), &[0; 10]).remove(0).0.to_string();
        for (from, to) in
            [("0/1", "1/1"), ("0/1", "0/2"), (" 16 ", " 17 "), (" 16 ", " 0 "), ("v1", "v2")]
        {
            assert!(good.replacen(from, to, 1).parse::<BlockFrame>().is_err(), "{from} -> {to}");
        }
    }
}
