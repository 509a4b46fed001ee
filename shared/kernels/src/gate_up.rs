//! The feed-forward layer's first half: gate and up multiplied together, and combined.

use crate::activation::View;
use crate::format::PANEL_ROWS;
use crate::lanes::{self, Kernel, LANES, Lanes};
use crate::linear::{CHUNK_ROWS, Segment, chunk_rows, tile_rows};
use crate::memory::Shared;
use crate::tile::{self, Inputs, Outputs, PANELS, TILE_ROWS};
use std::ops::Range;

/// The multiplication of prepared rows with gate and up, and their combination.
pub(crate) struct GateUp<'a> {
    /// Two matrices of one size.
    pub(crate) segments: [&'a Segment; 2],
    pub(crate) inputs: usize,
    pub(crate) activations: View<'a>,
    pub(crate) rows: usize,
    /// Threads that take chunks in turn.
    pub(crate) threads: usize,
    pub(crate) out: Shared<'a, f32>,
    pub(crate) stride: usize,
}

impl GateUp<'_> {
    pub(crate) fn chunks(&self) -> usize {
        self.segments[0].panel_count() * self.rows.div_ceil(CHUNK_ROWS)
    }

    pub(crate) fn chunk(&self, index: usize) -> GateUpChunk<'_> {
        GateUpChunk { product: self, index }
    }
}

pub(crate) struct GateUpChunk<'a> {
    product: &'a GateUp<'a>,
    index: usize,
}

impl Kernel for GateUpChunk<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let GateUp { segments, rows, threads, out, stride, .. } = self.product;
        let [gate, up] = *segments;
        let panel = self.index % gate.panel_count();
        let (first, count) = chunk_rows(*rows, self.index / gate.panel_count());
        let wide = (gate.outputs - panel * PANEL_ROWS).min(PANEL_ROWS);
        let mut both: [Outputs; TILE_ROWS] = [[[0.0; PANEL_ROWS]; PANELS]; TILE_ROWS];
        let tiles = count.div_ceil(L::ROWS);
        for tile in 0..tiles {
            let (at, count) = tile_rows(count, tiles, tile);
            let at = first + at;
            // SAFETY: the instructions are promised by the caller; vectors have sixteen values; the
            // chunk has these rows and columns to itself.
            unsafe {
                let ahead = if tile == 0 { threads * gate.panel_bytes } else { 0 };
                self.multiply::<L>([gate, up], panel, ahead, at..at + count, &mut both);
                for (row, both) in both.iter_mut().take(count).enumerate() {
                    let gate = lanes::silu::<L>(L::load(both[0].as_ptr()));
                    let value = L::mul(gate, L::load(both[1].as_ptr()));
                    let start = (at + row) * stride + panel * PANEL_ROWS;
                    let out = out.part(start, LANES);
                    L::store(both[0].as_mut_ptr(), value);
                    // Behind the last output come the zeros of the padding.
                    out[..wide].copy_from_slice(&both[0][..wide]);
                }
            }
        }
    }
}

impl GateUpChunk<'_> {
    /// # Safety
    /// The machine has the instructions of `L`.
    #[inline(always)]
    unsafe fn multiply<L: Lanes>(
        &self,
        segments: [&Segment; 2],
        panel: usize,
        ahead: usize,
        rows: Range<usize>,
        out: &mut [Outputs; TILE_ROWS],
    ) {
        let GateUp { inputs, activations, .. } = self.product;
        let format = segments[0].format;
        let (activations, inputs) = (*activations, *inputs);
        // SAFETY: the instructions are promised by the caller.
        unsafe {
            if format == segments[1].format {
                let panels = segments.map(|segment| segment.panel(panel));
                let inputs = Inputs { format, panels, activations, inputs, ahead };
                return tile::compute::<L>(&inputs, rows.start, rows.len(), out);
            }
            for (index, segment) in segments.into_iter().enumerate() {
                let mut one: [Outputs; TILE_ROWS] = [[[0.0; PANEL_ROWS]; PANELS]; TILE_ROWS];
                let panels = [segment.panel(panel); PANELS];
                let inputs = Inputs { format: segment.format, panels, activations, inputs, ahead };
                tile::compute::<L>(&inputs, rows.start, rows.len(), &mut one);
                for (out, one) in out.iter_mut().zip(one) {
                    out[index] = one[0];
                }
            }
        }
    }
}
