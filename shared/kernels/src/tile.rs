//! The innermost loops: a few rows of activations times a few panels of weights.
//!
//! Each output is summed over the blocks in their order, whatever the shape of the tile: integers
//! within a block, then one fused multiplication by the weight's scale times the activation's, and
//! one for the minimum where the format has one.

use crate::activation::{Block, View};
use crate::format::{Format, K4_BLOCK, K4_HEAD, K6_BLOCK, K6_HEAD, PANEL_ROWS};
use crate::lanes::{LANES, Lanes};

/// What a tile computes with.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a, const P: usize> {
    pub(crate) format: Format,
    /// Whole panels, all of the same length.
    pub(crate) panels: [&'a [u8]; P],
    pub(crate) activations: View<'a>,
    pub(crate) inputs: usize,
    /// How many bytes behind each panel the one lies that is needed next, which is asked for on the
    /// way; 0 when it has been.
    pub(crate) ahead: usize,
}

/// Results of a tile: for each row, the outputs of its panels one after the other.
pub(crate) type Outputs<const P: usize> = [[f32; PANEL_ROWS]; P];

/// Computes `rows` rows from `first` on, at most `L::ROWS` of them.
///
/// # Safety
/// The machine has the instructions of `L`.
#[inline(always)]
pub(crate) unsafe fn compute<L: Lanes, const P: usize>(
    inputs: &Inputs<'_, P>,
    first: usize,
    rows: usize,
    out: &mut [Outputs<P>],
) {
    assert!(rows <= L::ROWS && rows <= out.len(), "a tile is small");
    // SAFETY: the instructions are promised by the caller.
    unsafe {
        match rows {
            1 => tile::<L, P, 1>(inputs, first, out),
            2 if L::ROWS >= 2 => tile::<L, P, 2>(inputs, first, out),
            3 if L::ROWS >= 3 => tile::<L, P, 3>(inputs, first, out),
            4 if L::ROWS >= 4 => tile::<L, P, 4>(inputs, first, out),
            5 if L::ROWS >= 5 => tile::<L, P, 5>(inputs, first, out),
            6 if L::ROWS >= 6 => tile::<L, P, 6>(inputs, first, out),
            _ => {}
        }
    }
}

/// Pointers to what a quantised tile reads. Plain loops go over them: a closure would be compiled
/// without the instructions that its surroundings have.
#[derive(Clone, Copy)]
struct Reads<const P: usize, const R: usize> {
    panels: [*const u8; P],
    rows: [*const Block; R],
    ahead: usize,
}

impl<const P: usize, const R: usize> Reads<P, R> {
    /// Further panels and rows.
    ///
    /// # Safety
    /// Both stay within what they point to.
    #[inline(always)]
    unsafe fn at(mut self, panel_bytes: usize, blocks: usize) -> Self {
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
    unsafe fn prefetch<L: Lanes, const BYTES: usize>(&self) {
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

/// # Safety
/// The machine has the instructions of `L`.
#[inline(always)]
unsafe fn tile<L: Lanes, const P: usize, const R: usize>(
    inputs: &Inputs<'_, P>,
    first: usize,
    out: &mut [Outputs<P>],
) {
    let Inputs { format, panels, activations, inputs: width, ahead } = *inputs;
    let units = width / format.block_values();
    assert!(units * format.block_values() == width, "rows divide into blocks");
    for panel in panels {
        assert_eq!(panel.len(), units * format.panel_bytes(), "a panel is whole");
    }
    // SAFETY: the instructions are promised by the caller; the panels were measured above and the
    // rows are in what `View` holds, which the slices check; outputs have sixteen values.
    unsafe {
        let mut starts = [std::ptr::null(); P];
        for p in 0..P {
            starts[p] = panels[p].as_ptr();
        }
        let sums = if format.is_quantised() {
            let each = activations.blocks_each;
            let mut rows = [std::ptr::null(); R];
            for r in 0..R {
                rows[r] = activations.blocks[(first + r) * each..][..each].as_ptr();
            }
            let reads = Reads { panels: starts, rows, ahead };
            match format {
                Format::Q4_0 => q4_0::<L, P, R>(reads, units),
                Format::Q4_1 => q4_1::<L, P, R>(reads, units),
                Format::Q8_0 => q8_0::<L, P, R>(reads, units),
                Format::Q4_K => q4_k::<L, P, R>(reads, units),
                _ => q6_k::<L, P, R>(reads, units),
            }
        } else {
            let stride = activations.stride;
            let mut rows = [std::ptr::null(); R];
            for r in 0..R {
                rows[r] = activations.floats[(first + r) * stride..][..width].as_ptr();
            }
            match format {
                Format::F32 => float::<L, P, R, F32>(starts, rows, units),
                Format::F16 => float::<L, P, R, F16>(starts, rows, units),
                _ => float::<L, P, R, BF16>(starts, rows, units),
            }
        };
        for r in 0..R {
            for p in 0..P {
                L::store(out[r][p].as_mut_ptr(), sums[r][p]);
            }
        }
    }
}

type Sums<L, const P: usize, const R: usize> = [[<L as Lanes>::F; P]; R];
type Dots<L, const P: usize, const R: usize> = [[<L as Lanes>::I; P]; R];

const F32: u8 = 0;
const F16: u8 = 1;
const BF16: u8 = 2;

/// # Safety
/// Panels have `units` times sixteen values of the `KIND`, rows have `units` values.
#[inline(always)]
unsafe fn float<L: Lanes, const P: usize, const R: usize, const KIND: u8>(
    panels: [*const u8; P],
    rows: [*const f32; R],
    units: usize,
) -> Sums<L, P, R> {
    // SAFETY: within the lengths that the caller promises.
    unsafe {
        let mut sums = [[L::splat(0.0); P]; R];
        for at in 0..units {
            let mut weights = [L::splat(0.0); P];
            for p in 0..P {
                weights[p] = match KIND {
                    F32 => L::load(panels[p].add(at * LANES * 4).cast()),
                    F16 => L::load_f16(panels[p].add(at * LANES * 2).cast()),
                    _ => L::load_bf16(panels[p].add(at * LANES * 2).cast()),
                };
            }
            for r in 0..R {
                let x = L::splat(*rows[r].add(at));
                for p in 0..P {
                    sums[r][p] = L::fma(weights[p], x, sums[r][p]);
                }
            }
        }
        sums
    }
}

/// The four activations of group `group` within a block.
///
/// # Safety
/// `block` can be read.
#[inline(always)]
unsafe fn four(block: *const Block, group: usize) -> i32 {
    // SAFETY: the quants come first in a block, and have eight groups.
    unsafe { block.cast::<i32>().add(group).read() }
}

/// Adds to `dots` those of four activations of each row with a vector of each panel.
///
/// # Safety
/// Rows point to blocks.
#[inline(always)]
unsafe fn add_dots<L: Lanes, const P: usize, const R: usize>(
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
unsafe fn nibble_dots<L: Lanes, const P: usize, const R: usize>(
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
unsafe fn add_scaled<L: Lanes, const P: usize, const R: usize>(
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
unsafe fn add_minima<L: Lanes, const P: usize, const R: usize>(
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

/// # Safety
/// Panels and rows have `units` blocks.
#[inline(always)]
unsafe fn q4_0<L: Lanes, const P: usize, const R: usize>(
    reads: Reads<P, R>,
    units: usize,
) -> Sums<L, P, R> {
    // SAFETY: within the lengths that the caller promises.
    unsafe {
        let mut sums = [[L::splat(0.0); P]; R];
        for unit in 0..units {
            let reads = reads.at(unit * Format::Q4_0.panel_bytes(), unit);
            reads.prefetch::<L, { Format::Q4_0.panel_bytes() }>();
            let mut scales = [L::splat(0.0); P];
            let mut dots = [[L::splat_i(0); P]; R];
            for p in 0..P {
                scales[p] = L::load_f16(reads.panels[p].cast());
            }
            for r in 0..R {
                dots[r] = [L::splat_i((*reads.rows[r]).around_8); P];
            }
            nibble_dots::<L, P, R>(reads, 32, &mut dots);
            add_scaled::<L, P, R>(&mut sums, dots, scales, reads.rows);
        }
        sums
    }
}

/// # Safety
/// Panels and rows have `units` blocks.
#[inline(always)]
unsafe fn q4_1<L: Lanes, const P: usize, const R: usize>(
    reads: Reads<P, R>,
    units: usize,
) -> Sums<L, P, R> {
    // SAFETY: within the lengths that the caller promises.
    unsafe {
        let mut sums = [[L::splat(0.0); P]; R];
        for unit in 0..units {
            let reads = reads.at(unit * Format::Q4_1.panel_bytes(), unit);
            reads.prefetch::<L, { Format::Q4_1.panel_bytes() }>();
            let mut scales = [L::splat(0.0); P];
            let mut minima = [L::splat(0.0); P];
            for p in 0..P {
                scales[p] = L::load_f16(reads.panels[p].cast());
                minima[p] = L::load_f16(reads.panels[p].add(32).cast());
            }
            let mut dots = [[L::splat_i(0); P]; R];
            nibble_dots::<L, P, R>(reads, 64, &mut dots);
            add_scaled::<L, P, R>(&mut sums, dots, scales, reads.rows);
            add_minima::<L, P, R>(&mut sums, minima, reads.rows);
        }
        sums
    }
}

/// # Safety
/// Panels and rows have `units` blocks.
#[inline(always)]
unsafe fn q8_0<L: Lanes, const P: usize, const R: usize>(
    reads: Reads<P, R>,
    units: usize,
) -> Sums<L, P, R> {
    // SAFETY: within the lengths that the caller promises.
    unsafe {
        let mut sums = [[L::splat(0.0); P]; R];
        for unit in 0..units {
            let reads = reads.at(unit * Format::Q8_0.panel_bytes(), unit);
            reads.prefetch::<L, { Format::Q8_0.panel_bytes() }>();
            let mut scales = [L::splat(0.0); P];
            let mut dots = [[L::splat_i(0); P]; R];
            for p in 0..P {
                scales[p] = L::load_f16(reads.panels[p].cast());
            }
            for r in 0..R {
                dots[r] = [L::splat_i((*reads.rows[r]).around_128); P];
            }
            for group in 0..8 {
                let mut bytes = [L::load_b(reads.panels[0].add(32 + 64 * group)); P];
                for p in 1..P {
                    bytes[p] = L::load_b(reads.panels[p].add(32 + 64 * group));
                }
                add_dots::<L, P, R>(&mut dots, bytes, reads.rows, group);
            }
            add_scaled::<L, P, R>(&mut sums, dots, scales, reads.rows);
        }
        sums
    }
}

/// # Safety
/// Panels have `units` blocks, rows eight times as many.
#[inline(always)]
unsafe fn q4_k<L: Lanes, const P: usize, const R: usize>(
    reads: Reads<P, R>,
    units: usize,
) -> Sums<L, P, R> {
    // SAFETY: within the lengths that the caller promises.
    unsafe {
        let mut sums = [[L::splat(0.0); P]; R];
        for unit in 0..units {
            let unit_reads = reads.at(unit * Format::Q4_K.panel_bytes(), 8 * unit);
            let heads = unit_reads.panels;
            let mut super_scales = [L::splat(0.0); P];
            let mut super_minima = [L::splat(0.0); P];
            for p in 0..P {
                super_scales[p] = L::load_f16(heads[p].cast());
                super_minima[p] = L::sub(L::splat(0.0), L::load_f16(heads[p].add(32).cast()));
            }
            for part in 0..8 {
                let reads = unit_reads.at(K4_HEAD + part * K4_BLOCK, part);
                reads.prefetch::<L, K4_BLOCK>();
                let (mut scales, mut minima) = (super_scales, super_minima);
                for p in 0..P {
                    scales[p] = L::mul(scales[p], L::load_u8(reads.panels[p]));
                    minima[p] = L::mul(minima[p], L::load_u8(reads.panels[p].add(16)));
                }
                let mut dots = [[L::splat_i(0); P]; R];
                nibble_dots::<L, P, R>(reads, 32, &mut dots);
                add_scaled::<L, P, R>(&mut sums, dots, scales, reads.rows);
                add_minima::<L, P, R>(&mut sums, minima, reads.rows);
            }
        }
        sums
    }
}

/// # Safety
/// Panels have `units` blocks, rows eight times as many.
#[inline(always)]
unsafe fn q6_k<L: Lanes, const P: usize, const R: usize>(
    reads: Reads<P, R>,
    units: usize,
) -> Sums<L, P, R> {
    // SAFETY: within the lengths that the caller promises.
    unsafe {
        let mut sums = [[L::splat(0.0); P]; R];
        for unit in 0..units {
            let unit_reads = reads.at(unit * Format::Q6_K.panel_bytes(), 8 * unit);
            let heads = unit_reads.panels;
            let mut super_scales = [L::splat(0.0); P];
            for p in 0..P {
                super_scales[p] = L::load_f16(heads[p].cast());
            }
            for part in 0..8 {
                let reads = unit_reads.at(K6_HEAD + part * K6_BLOCK, part);
                reads.prefetch::<L, K6_BLOCK>();
                for half in 0..2 {
                    let mut scales = super_scales;
                    for p in 0..P {
                        scales[p] = L::mul(scales[p], L::load_i8(reads.panels[p].add(16 * half)));
                    }
                    let dots = six_bit_dots::<L, P, R>(reads, half);
                    add_scaled::<L, P, R>(&mut sums, dots, scales, reads.rows);
                }
            }
        }
        sums
    }
}

/// Dot products of one half of a block of 6-bit weights.
///
/// # Safety
/// Panels point to parts of a `Q6_K` panel block, rows to blocks.
#[inline(always)]
unsafe fn six_bit_dots<L: Lanes, const P: usize, const R: usize>(
    reads: Reads<P, R>,
    half: usize,
) -> Dots<L, P, R> {
    // SAFETY: within the lengths that the caller promises.
    unsafe {
        let mut dots = [[L::splat_i(0); P]; R];
        for r in 0..R {
            dots[r] = [L::splat_i((*reads.rows[r]).halves_around_32[half]); P];
        }
        for field in 0..4 {
            let mut bytes = [L::load_b(reads.panels[0]); P];
            for p in 0..P {
                let panel = reads.panels[p];
                let both = L::load_b(panel.add(32 + 64 * field));
                let low = if half == 0 { L::low_nibbles(both) } else { L::high_nibbles(both) };
                let high = L::load_b(panel.add(288 + 64 * half));
                let top = match field {
                    0 => L::two_bits::<0>(high),
                    1 => L::two_bits::<1>(high),
                    2 => L::two_bits::<2>(high),
                    _ => L::two_bits::<3>(high),
                };
                bytes[p] = L::or(low, top);
            }
            add_dots::<L, P, R>(&mut dots, bytes, reads.rows, 4 * half + field);
        }
        dots
    }
}
