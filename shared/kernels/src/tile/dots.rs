//! Parts that the quantized formats share: where a tile reads, dot products of bytes, their scaling.

use super::PANELS;
use crate::activation::{Block, Quant};
use crate::lanes::Lanes;

pub(super) type Sums<L, const R: usize> = [[<L as Lanes>::F; PANELS]; R];
pub(super) type Dots<L, const R: usize> = [[<L as Lanes>::I; PANELS]; R];

/// Repeats a block for each value of a constant: loops of this size would stay loops.
macro_rules! unrolled {
    ($name:ident in [$($value:literal),+] $body:block) => {
        $({
            const $name: usize = $value;
            $body
        })+
    };
}
pub(super) use unrolled;

/// Pointers to a tile's panels and to its rows of `X`. Plain loops go over them: a closure would be compiled
/// without the instructions that its surroundings have.
#[derive(Clone, Copy)]
pub(super) struct Reads<X, const R: usize> {
    pub(super) panels: [*const u8; PANELS],
    pub(super) rows: [*const X; R],
    pub(super) ahead: usize,
}

impl<X, const R: usize> Reads<X, R> {
    /// Moves on in panels and rows.
    ///
    /// # Safety
    /// Both stay within what they point to.
    #[inline(always)]
    pub(super) unsafe fn at(mut self, panel_bytes: usize, blocks: usize) -> Self {
        // SAFETY: promised by the caller.
        unsafe {
            for p in 0..PANELS {
                self.panels[p] = self.panels[p].add(panel_bytes);
            }
            for r in 0..R {
                self.rows[r] = self.rows[r].add(blocks);
            }
        }
        self
    }

    /// Prefetches `BYTES` bytes of the panels that come next.
    #[inline(always)]
    pub(super) unsafe fn prefetch<L: Lanes, const BYTES: usize>(&self) {
        if self.ahead == 0 {
            return;
        }
        for p in 0..PANELS {
            for line in 0..BYTES.div_ceil(64) {
                let at = self.panels[p].wrapping_add(self.ahead + 64 * line);
                // SAFETY: asking for a line needs no memory to be there.
                unsafe { L::prefetch(at) };
            }
        }
    }
}

/// Adds to `dots` those of four activations of each row with a vector of each panel.
///
/// # Safety
/// Rows point to blocks.
#[inline(always)]
pub(super) unsafe fn add_dots<L: Lanes, Q: Quant, const R: usize>(
    dots: &mut Dots<L, R>,
    bytes: [L::B; PANELS],
    rows: [*const Block<Q>; R],
    group: usize,
) {
    // SAFETY: as the caller promises.
    unsafe {
        for r in 0..R {
            let x = Q::four(rows[r].cast(), group);
            for p in 0..PANELS {
                dots[r][p] = Q::dot::<L>(dots[r][p], bytes[p], x);
            }
        }
    }
}

/// Computes the dot products of one block of 4-bit weights, `weights` bytes into the panels: vector `v` holds
/// group `v` in its low halves and group `v + 4` in its high ones.
///
/// # Safety
/// 256 bytes are there, and rows point to blocks.
#[inline(always)]
pub(super) unsafe fn nibble_dots<L: Lanes, Q: Quant, const R: usize>(
    reads: Reads<Block<Q>, R>,
    weights: usize,
    dots: &mut Dots<L, R>,
) {
    // SAFETY: within the lengths that the caller promises.
    unsafe {
        unrolled!(VECTOR in [0, 1, 2, 3] {
            let mut both = [L::load_b(reads.panels[0].add(weights + 64 * VECTOR)); PANELS];
            for p in 1..PANELS {
                both[p] = L::load_b(reads.panels[p].add(weights + 64 * VECTOR));
            }
            let mut nibbles = both;
            for p in 0..PANELS {
                nibbles[p] = L::low_nibbles(both[p]);
            }
            add_dots::<L, Q, R>(dots, nibbles, reads.rows, VECTOR);
            for p in 0..PANELS {
                nibbles[p] = L::high_nibbles(both[p]);
            }
            add_dots::<L, Q, R>(dots, nibbles, reads.rows, VECTOR + 4);
        });
    }
}

/// Adds integer dot products times the scales of weights and activations.
///
/// # Safety
/// `rows` point to blocks.
#[inline(always)]
pub(super) unsafe fn add_scaled<L: Lanes, Q: Quant, const R: usize>(
    sums: &mut Sums<L, R>,
    dots: Dots<L, R>,
    scales: [L::F; PANELS],
    rows: [*const Block<Q>; R],
) {
    // SAFETY: as the caller promises.
    unsafe {
        for r in 0..R {
            let factor = L::splat((*rows[r]).scale);
            for p in 0..PANELS {
                let scaled = L::mul(L::to_f(dots[r][p]), scales[p]);
                sums[r][p] = L::fma(scaled, factor, sums[r][p]);
            }
        }
    }
}

/// Adds the minima of the weights times the shifts of the activations.
///
/// # Safety
/// `rows` point to blocks.
#[inline(always)]
pub(super) unsafe fn add_minima<L: Lanes, Q: Quant, const R: usize>(
    sums: &mut Sums<L, R>,
    minima: [L::F; PANELS],
    rows: [*const Block<Q>; R],
) {
    // SAFETY: as the caller promises.
    unsafe {
        for r in 0..R {
            let shift = L::splat((*rows[r]).shift);
            for p in 0..PANELS {
                sums[r][p] = L::fma(minima[p], shift, sums[r][p]);
            }
        }
    }
}
