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
mod quantized;

use crate::activation::{Block, Blocks, Quant, View};
use crate::format::{Format, PANEL_ROWS};
use crate::lanes::{Kernel, LANES, Lanes};
use dots::{Reads, Sums};
use quantized::{Q4_0, Q4_1, Q4K, Q6K, Q8_0};
use std::marker::PhantomData;

/// Panels of a tile: every activation that is loaded meets both.
pub(crate) const PANELS: usize = 2;
/// Most rows of a tile, of all instruction sets.
pub(crate) const TILE_ROWS: usize = 6;

/// Operands of a tile.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    pub(crate) format: Format,
    /// Whole panels, all of the same length. A panel without a second one stands twice.
    pub(crate) panels: [&'a [u8]; PANELS],
    pub(crate) activations: View<'a>,
    pub(crate) inputs: usize,
    /// Distance in bytes from each panel to the one that is needed next, which is prefetched on the
    /// way; 0 if it has been.
    pub(crate) ahead: usize,
}

/// Results of a tile for one row: the outputs of its panels one after the other.
pub(crate) type Outputs = [[f32; PANEL_ROWS]; PANELS];

/// Computes `rows` rows from `first` on, at most [`Lanes::ROWS`].
///
/// # Safety
/// The machine has the instructions of `L`.
#[inline(always)]
pub(crate) unsafe fn compute<L: Lanes>(
    inputs: &Inputs<'_>,
    first: usize,
    rows: usize,
    out: &mut [Outputs; TILE_ROWS],
) {
    assert!(rows <= L::ROWS && rows <= out.len(), "a tile is small");
    // Constants in blocks: a comparison outside one would compile all sizes for all instructions.
    // SAFETY: the instructions are promised by the caller.
    unsafe {
        match rows {
            1 => compute_rows::<L, 1>(inputs, first, out),
            2 if const { L::ROWS >= 2 } => compute_rows::<L, 2>(inputs, first, out),
            3 if const { L::ROWS >= 3 } => compute_rows::<L, 3>(inputs, first, out),
            4 if const { L::ROWS >= 4 } => compute_rows::<L, 4>(inputs, first, out),
            5 if const { L::ROWS >= 5 } => compute_rows::<L, 5>(inputs, first, out),
            6 if const { L::ROWS >= 6 } => compute_rows::<L, 6>(inputs, first, out),
            _ => {}
        }
    }
}

/// # Safety
/// The machine has the instructions of `L`.
#[inline(always)]
unsafe fn compute_rows<L: Lanes, const R: usize>(
    inputs: &Inputs<'_>,
    first: usize,
    out: &mut [Outputs; TILE_ROWS],
) {
    let View { blocks, blocks_each, floats, stride } = inputs.activations;
    // SAFETY: the instructions are promised by the caller.
    unsafe {
        match inputs.format {
            Format::F32 => call::<L, _, F32, R>(inputs, floats, stride, first, out),
            Format::F16 => call::<L, _, F16, R>(inputs, floats, stride, first, out),
            Format::BF16 => call::<L, _, BF16, R>(inputs, floats, stride, first, out),
            _ => match blocks {
                Blocks::Int8(blocks) => {
                    compute_blocks::<L, _, R>(inputs, blocks, blocks_each, first, out);
                }
                Blocks::Int16(blocks) => {
                    compute_blocks::<L, _, R>(inputs, blocks, blocks_each, first, out);
                }
            },
        }
    }
}

/// # Safety
/// The machine has the instructions of `L`.
#[inline(always)]
unsafe fn compute_blocks<L: Lanes, Q: Quant, const R: usize>(
    inputs: &Inputs<'_>,
    blocks: &[Block<Q>],
    stride: usize,
    first: usize,
    out: &mut [Outputs; TILE_ROWS],
) {
    // SAFETY: the instructions are promised by the caller.
    unsafe {
        match inputs.format {
            Format::Q4_0 => call::<L, _, Q4_0, R>(inputs, blocks, stride, first, out),
            Format::Q4_1 => call::<L, _, Q4_1, R>(inputs, blocks, stride, first, out),
            Format::Q8_0 => call::<L, _, Q8_0, R>(inputs, blocks, stride, first, out),
            Format::Q4_K => call::<L, _, Q4K, R>(inputs, blocks, stride, first, out),
            Format::Q6_K => call::<L, _, Q6K, R>(inputs, blocks, stride, first, out),
            Format::F32 | Format::F16 | Format::BF16 => unreachable!("floats meet floats"),
        }
    }
}

/// # Safety
/// The machine has the instructions of `L`; `X` is the activations that `W` is multiplied with.
#[inline(always)]
unsafe fn call<L: Lanes, X, W: Weights<X>, const R: usize>(
    inputs: &Inputs<'_>,
    activations: &[X],
    stride: usize,
    first: usize,
    out: &mut [Outputs; TILE_ROWS],
) {
    let Inputs { format, panels, inputs: width, ahead, .. } = *inputs;
    let units = width / format.block_values();
    assert!(units * format.block_values() == width, "rows divide into blocks");
    for panel in panels {
        assert_eq!(panel.len(), units * format.panel_bytes(), "a panel is whole");
    }
    let mut rows = [std::ptr::null(); R];
    for r in 0..R {
        rows[r] = activations[(first + r) * stride..][..stride].as_ptr();
    }
    let reads = Reads { panels: panels.map(<[u8]>::as_ptr), rows, ahead };
    // SAFETY: the instructions are promised by the caller; panels and rows are as long as `units`
    // blocks.
    unsafe { L::call(Tile::<X, W, R> { reads, units, out, weights: PhantomData }) };
}

/// A few rows of activations times two panels, compiled once for each instruction set, format and
/// number of rows.
struct Tile<'a, X, W, const R: usize> {
    reads: Reads<X, R>,
    units: usize,
    out: &'a mut [Outputs; TILE_ROWS],
    weights: PhantomData<W>,
}

impl<X, W: Weights<X>, const R: usize> Kernel for Tile<'_, X, W, R> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        // SAFETY: the instructions are promised by the caller; whoever made the tile measured what
        // it reads; outputs have sixteen values.
        unsafe {
            let sums = W::sums::<L, R>(self.reads, self.units);
            for r in 0..R {
                for p in 0..PANELS {
                    L::store(self.out[r][p].as_mut_ptr(), sums[r][p]);
                }
            }
        }
    }
}

/// A format of weights, as the innermost loop multiplies it with activations `X`.
trait Weights<X> {
    /// Computes the products of rows and panels.
    ///
    /// # Safety
    /// The machine has the instructions of `L`; panels have `units` blocks of the format, rows as many
    /// values.
    unsafe fn sums<L: Lanes, const R: usize>(reads: Reads<X, R>, units: usize) -> Sums<L, R>;
}

/// Formats of weights that are multiplied in single precision; see [`Format`].
struct F32;
struct F16;
struct BF16;

/// A vector of weights in single precision.
trait Float {
    /// Loads vector `at` of a panel.
    ///
    /// # Safety
    /// The machine has the instructions of `L`, and the panel has the vector.
    unsafe fn load<L: Lanes>(panel: *const u8, at: usize) -> L::F;
}

impl Float for F32 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(panel: *const u8, at: usize) -> L::F {
        // SAFETY: promised by the caller.
        unsafe { L::load(panel.add(at * LANES * 4).cast()) }
    }
}

impl Float for F16 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(panel: *const u8, at: usize) -> L::F {
        // SAFETY: promised by the caller.
        unsafe { L::load_f16(panel.add(at * LANES * 2).cast()) }
    }
}

impl Float for BF16 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(panel: *const u8, at: usize) -> L::F {
        // SAFETY: promised by the caller.
        unsafe { L::load_bf16(panel.add(at * LANES * 2).cast()) }
    }
}

impl<W: Float> Weights<f32> for W {
    #[inline(always)]
    unsafe fn sums<L: Lanes, const R: usize>(reads: Reads<f32, R>, units: usize) -> Sums<L, R> {
        // SAFETY: within the lengths that the caller promises.
        unsafe {
            let mut sums = [[L::splat(0.0); PANELS]; R];
            for at in 0..units {
                let mut weights = [L::splat(0.0); PANELS];
                for p in 0..PANELS {
                    weights[p] = W::load::<L>(reads.panels[p], at);
                }
                for r in 0..R {
                    let x = L::splat(*reads.rows[r].add(at));
                    for p in 0..PANELS {
                        sums[r][p] = L::fma(weights[p], x, sums[r][p]);
                    }
                }
            }
            sums
        }
    }
}
