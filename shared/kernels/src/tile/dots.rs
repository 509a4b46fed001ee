//! What the quantised formats share: where a tile reads, dot products of bytes, and their scaling.

use crate::activation::Block;
use crate::lanes::Lanes;

pub(super) type Sums<L, const P: usize, const R: usize> = [[<L as Lanes>::F; P]; R];
pub(super) type Dots<L, const P: usize, const R: usize> = [[<L as Lanes>::I; P]; R];

/// Pointers to what a quantised tile reads. Plain loops go over them: a closure would be compiled
/// without the instructions that its surroundings have.
#[derive(Clone, Copy)]
pub(super) struct Reads<const P: usize, const R: usize> {
    pub(super) panels: [*const u8; P],
    pub(super) rows: [*const Block; R],
    pub(super) ahead: usize,
}

impl<const P: usize, const R: usize> Reads<P, R> {
    /// Further panels and rows.
    ///
    /// # Safety
    /// Both stay within what they point to.
    #[inline(always)]
    pub(super) unsafe fn at(mut self, panel_bytes: usize, blocks: usize) -> Self {
        // SAFETY: promised by the caller.
        unsafe {
            for p in 0..P {
                self.panels[p] = self.panels[p].add(panel_bytes);
            }
            for r in 0..R {
                self.rows[r] = self.rows[r].add(blocks);
            }
        }
        self
    }

    /// Asks for the next `BYTES` bytes of the panels that come next.
    #[inline(always)]
    pub(super) unsafe fn prefetch<L: Lanes, const BYTES: usize>(&self) {
        if self.ahead == 0 {
            return;
        }
        for p in 0..P {
            for line in 0..BYTES.div_ceil(64) {
                let at = self.panels[p].wrapping_add(self.ahead + 64 * line);
                // SAFETY: asking for a line needs no memory to be there.
                unsafe { L::prefetch(at) };
            }
        }
    }
}

/// The four activations of group `group` within a block.
///
/// # Safety
/// `block` can be read.
#[inline(always)]
pub(super) unsafe fn four(block: *const Block, group: usize) -> i32 {
    // SAFETY: the quants come first in a block, and have eight groups.
    unsafe { block.cast::<i32>().add(group).read() }
}

/// Adds to `dots` those of four activations of each row with a vector of each panel.
///
/// # Safety
/// Rows point to blocks.
#[inline(always)]
pub(super) unsafe fn add_dots<L: Lanes, const P: usize, const R: usize>(
    dots: &mut Dots<L, P, R>,
    bytes: [L::B; P],
    rows: [*const Block; R],
    group: usize,
) {
    // SAFETY: as the caller promises.
    unsafe {
        for r in 0..R {
            let x = four(rows[r], group);
            for p in 0..P {
                dots[r][p] = L::dot(dots[r][p], bytes[p], x);
            }
        }
    }
}

/// Dot products of one block of 4-bit weights, `weights` bytes into the panels: vector `v` holds
/// group `v` in its low halves and group `v + 4` in its high ones.
///
/// # Safety
/// 256 bytes are there, and rows point to blocks.
#[inline(always)]
pub(super) unsafe fn nibble_dots<L: Lanes, const P: usize, const R: usize>(
    reads: Reads<P, R>,
    weights: usize,
    dots: &mut Dots<L, P, R>,
) {
    // SAFETY: within the lengths that the caller promises.
    unsafe {
        for vector in 0..4 {
            let mut low = [L::load_b(reads.panels[0].add(weights + 64 * vector)); P];
            let mut high = low;
            for p in 0..P {
                let both = L::load_b(reads.panels[p].add(weights + 64 * vector));
                low[p] = L::low_nibbles(both);
                high[p] = L::high_nibbles(both);
            }
            add_dots::<L, P, R>(dots, low, reads.rows, vector);
            add_dots::<L, P, R>(dots, high, reads.rows, vector + 4);
        }
    }
}

/// Adds integer dot products times the scales of weights and activations.
///
/// # Safety
/// `rows` point to blocks.
#[inline(always)]
pub(super) unsafe fn add_scaled<L: Lanes, const P: usize, const R: usize>(
    sums: &mut Sums<L, P, R>,
    dots: Dots<L, P, R>,
    scales: [L::F; P],
    rows: [*const Block; R],
) {
    // SAFETY: as the caller promises.
    unsafe {
        for r in 0..R {
            let factor = L::splat((*rows[r]).scale);
            for p in 0..P {
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
pub(super) unsafe fn add_minima<L: Lanes, const P: usize, const R: usize>(
    sums: &mut Sums<L, P, R>,
    minima: [L::F; P],
    rows: [*const Block; R],
) {
    // SAFETY: as the caller promises.
    unsafe {
        for r in 0..R {
            let shift = L::splat((*rows[r]).shift);
            for p in 0..P {
                sums[r][p] = L::fma(minima[p], shift, sums[r][p]);
            }
        }
    }
}
