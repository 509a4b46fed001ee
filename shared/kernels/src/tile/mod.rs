//! The innermost loops: a few rows of activations times a few panels of weights.
//!
//! Each output is summed over the blocks in their order, whatever the shape of the tile: integers
//! within a block, then one fused multiplication by the weight's scale times the activation's, and
//! one for the minimum where the format has one.

#![allow(
    clippy::needless_range_loop,
    reason = "plain loops over small arrays stay in registers; closures are compiled without the instructions"
)]

mod dots;
mod quantised;

use crate::activation::View;
use crate::format::{Format, PANEL_ROWS};
use crate::lanes::{LANES, Lanes};
use crate::linear::TILE_ROWS;
use dots::{Reads, Sums};
use quantised::{q4_0, q4_1, q4_k, q6_k, q8_0};

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

/// How many rows a tile has at most, where each is so many rows in 8 bits.
#[inline(always)]
pub(crate) fn most_rows<L: Lanes>(planes: usize) -> usize {
    (L::ROWS / planes).max(1)
}

/// Computes `rows` rows from `first` on, at most as many as [`most_rows`] allows: each of them is
/// the sum of its planes, coarsest first.
///
/// # Safety
/// The machine has the instructions of `L`.
#[inline(always)]
pub(crate) unsafe fn compute<L: Lanes, const P: usize>(
    inputs: &Inputs<'_, P>,
    first: usize,
    rows: usize,
    out: &mut [Outputs<P>; TILE_ROWS],
) {
    let planes = if inputs.format.is_quantised() { inputs.activations.planes } else { 1 };
    // SAFETY: the instructions are promised by the caller.
    unsafe {
        if planes == 1 {
            return compute_planes::<L, P>(inputs, first, rows, out);
        }
        let (first, count) = (first * planes, rows * planes);
        for done in (0..count).step_by(L::ROWS) {
            let now = (count - done).min(L::ROWS);
            compute_planes::<L, P>(inputs, first + done, now, &mut out[done..]);
        }
        for row in 0..rows {
            for p in 0..P {
                let mut sum = L::load(out[row * planes][p].as_ptr());
                for plane in 1..planes {
                    sum = L::add(sum, L::load(out[row * planes + plane][p].as_ptr()));
                }
                L::store(out[row][p].as_mut_ptr(), sum);
            }
        }
    }
}

/// The same where every row is one plane.
///
/// # Safety
/// The machine has the instructions of `L`.
#[inline(always)]
unsafe fn compute_planes<L: Lanes, const P: usize>(
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
