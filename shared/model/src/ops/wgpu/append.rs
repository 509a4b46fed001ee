//! Norms and rotates the keys of a step, and stores keys and values in their pages.
//!
//! Keys of two neighboring tokens share a word. Where a step has both, the first one's cube writes
//! it; where it has only one, the word keeps what it holds of the other.

use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::prelude::*;
use protocol::BLOCK_TOKENS;

use super::decode::single_to_half;
use super::gpu::arg;
use super::step::{Frame, SLOT_FIRST, SLOT_NEXT};

const UNITS: u32 = 64;

/// Sizes that keys, values and queries share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Heads {
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) normed: bool,
}

impl Heads {
    /// Returns the width of a row of queries, keys and values.
    pub(super) fn width(self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Words of the keys, or of the values, of one page.
    pub(super) fn half_words(self) -> usize {
        self.kv_heads * self.head_dim * BLOCK_TOKENS / 2
    }
}

/// Two elements that are turned together.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Pair {
    pub(super) low: f32,
    pub(super) high: f32,
}

/// Elements `index` and `index + head_dim / 2` of the head that begins at `base`, normed and turned.
/// `turns` holds the row's cosines, then its sines.
#[cube]
pub(super) fn turned(
    qkv: &[f32],
    gain: &[f32],
    turns: &[f32],
    place: &Turn,
    #[comptime] heads: Heads,
) -> Pair {
    let half = comptime!(heads.head_dim / 2);
    let mut low = qkv[place.base + place.index];
    let mut high = qkv[place.base + place.index + half];
    if comptime!(heads.normed) {
        let mut sum = 0.0f32;
        for index in 0..heads.head_dim {
            let value = qkv[place.base + index];
            sum = fma(value, value, sum);
        }
        let inverse = 1.0 / (sum / comptime!(heads.head_dim as f32) + place.eps).sqrt();
        low = low * inverse * gain[place.index];
        high = high * inverse * gain[place.index + half];
    }
    let cos = turns[place.row * heads.head_dim + place.index];
    let sin = turns[place.row * heads.head_dim + half + place.index];
    Pair { low: low * cos - high * sin, high: high * cos + low * sin }
}

/// A pair of elements of a row's head.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Turn {
    pub(super) row: usize,
    /// Start of the head.
    pub(super) base: usize,
    pub(super) index: usize,
    pub(super) eps: f32,
}

#[cube(launch)]
#[allow(clippy::too_many_arguments, reason = "every buffer of a kernel is an argument")]
fn append_kernel(
    qkv: &[f32],
    gain: &[f32],
    turns: &[f32],
    slots: &[u32],
    kv: &mut [u32],
    eps: f32,
    #[comptime] heads: Heads,
) {
    let row = CUBE_POS_X as usize;
    let head = CUBE_POS_Y as usize;
    let dim = comptime!(heads.head_dim);
    let slot = slots[2 * row] as usize;
    let flags = slots[2 * row + 1];
    let page = slot / BLOCK_TOKENS * comptime!(2 * heads.half_words());
    let token = slot % BLOCK_TOKENS;
    let keys = row * comptime!(heads.width()) + (heads.heads + head) * dim;
    if (flags & SLOT_FIRST) != 0 {
        for step in 0..comptime!((dim / 2).div_ceil(UNITS as usize)) {
            let index = step * UNITS as usize + UNIT_POS_X as usize;
            if index < comptime!(dim / 2) {
                let turn = Turn { row, base: keys, index, eps };
                let own = turned(qkv, gain, turns, &turn, heads);
                let low_at = page + (head * dim + index) * comptime!(BLOCK_TOKENS / 2) + token / 2;
                let high_at = low_at + comptime!(dim / 2 * BLOCK_TOKENS / 2);
                let mut low = single_to_half(own.low);
                let mut high = single_to_half(own.high);
                if token % 2 == 1 {
                    low = (kv[low_at] & 0xffff) | (low << 16);
                    high = (kv[high_at] & 0xffff) | (high << 16);
                } else if (flags & SLOT_NEXT) != 0 {
                    let base = keys + comptime!(heads.width());
                    let turn = Turn { row: row + 1, base, index, eps };
                    let next = turned(qkv, gain, turns, &turn, heads);
                    low |= single_to_half(next.low) << 16;
                    high |= single_to_half(next.high) << 16;
                } else {
                    low |= kv[low_at] & 0xffff_0000;
                    high |= kv[high_at] & 0xffff_0000;
                }
                kv[low_at] = low;
                kv[high_at] = high;
            }
        }
    }
    let values = keys + comptime!(heads.kv_heads * dim);
    let to =
        page + comptime!(heads.half_words()) + (head * BLOCK_TOKENS + token) * comptime!(dim / 2);
    for step in 0..comptime!((dim / 2).div_ceil(UNITS as usize)) {
        let index = step * UNITS as usize + UNIT_POS_X as usize;
        if index < comptime!(dim / 2) {
            let low = single_to_half(qkv[values + 2 * index]);
            let high = single_to_half(qkv[values + 2 * index + 1]);
            kv[to + index] = low | (high << 16);
        }
    }
}

/// The norm of each query head or of each key head.
#[derive(Clone, Copy)]
pub(super) struct HeadNorm<'a> {
    pub(super) gain: &'a CubeTensor,
    pub(super) eps: f32,
}

pub(super) fn launch(
    client: &Client,
    qkv: &CubeTensor,
    norm: HeadNorm<'_>,
    frame: &Frame,
    kv: &CubeTensor,
    heads: Heads,
) {
    append_kernel::launch(
        client,
        CubeCount::Static(frame.rows as u32, heads.kv_heads as u32, 1),
        CubeDim::new_1d(UNITS),
        arg(qkv),
        arg(norm.gain),
        arg(&frame.turns),
        arg(&frame.slots),
        arg(kv),
        norm.eps,
        heads,
    );
}
