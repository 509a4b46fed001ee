//! Weights of linear layers in panels, and the work of multiplying with them cut into chunks.

use crate::activation::View;
use crate::format::{self, Format, PANEL_ROWS};
use crate::lanes::{Kernel, Lanes};
use crate::memory::{Aligned, Shared};
use crate::tile::{self, Inputs, Outputs, PANELS, TILE_ROWS};

/// Rows that a chunk multiplies with its panels: few enough to stay in a core's second-level cache,
/// and a multiple of every tile.
pub(crate) const CHUNK_ROWS: usize = 96;

/// A matrix as a file stores it.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// Storage of its values.
    pub format: Format,
    /// Rows.
    pub outputs: usize,
    /// Values in a row; whole blocks of the format.
    pub inputs: usize,
    /// Row after row.
    pub bytes: &'a [u8],
}

/// The reason why weights could not be packed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// The bytes are not what the shape needs.
    #[error("weight [{outputs}, {inputs}] of {format:?} has {given} bytes, not {wanted}")]
    Bytes {
        /// Rows.
        outputs: usize,
        /// Values in a row.
        inputs: usize,
        /// Storage of the values.
        format: Format,
        /// Bytes that the shape needs.
        wanted: usize,
        /// Bytes given.
        given: usize,
    },
    /// Rows do not divide into blocks.
    #[error("{inputs} inputs do not divide into blocks of {block}")]
    Block {
        /// Values in a row.
        inputs: usize,
        /// Values in a block, of the weight or of the activations.
        block: usize,
    },
    /// Matrices side by side read different inputs, or there are none.
    #[error("weights side by side have {found:?} inputs, which should be equal")]
    Inputs {
        /// Inputs of each.
        found: Vec<usize>,
    },
    /// There is not one bias for each output.
    #[error("bias has {given} values for {outputs} outputs")]
    Bias {
        /// Outputs of all matrices.
        outputs: usize,
        /// Values given.
        given: usize,
    },
}

/// A packed matrix.
pub(crate) struct Segment {
    pub(crate) format: Format,
    pub(crate) outputs: usize,
    /// First of its outputs among those of all matrices.
    first_output: usize,
    pub(crate) panel_bytes: usize,
    panels: Aligned<u8>,
}

impl Segment {
    fn pack(part: Part<'_>, first_output: usize) -> Result<Self, PackError> {
        let Part { format, outputs, inputs, bytes } = part;
        let block =
            if format.is_quantized() { format.block_values().max(format::BLOCK) } else { 1 };
        if inputs == 0 || !inputs.is_multiple_of(block) {
            return Err(PackError::Block { inputs, block });
        }
        let units = inputs / format.block_values();
        let row_bytes = units * format.block_bytes();
        let wanted = outputs.saturating_mul(row_bytes);
        if bytes.len() != wanted {
            let given = bytes.len();
            return Err(PackError::Bytes { outputs, inputs, format, wanted, given });
        }
        let panel_bytes = units * format.panel_bytes();
        let mut panels = Aligned::zeroed(outputs.div_ceil(PANEL_ROWS) * panel_bytes);
        let packed = panels.as_mut_slice();
        for (row, bytes) in bytes.chunks_exact(row_bytes).enumerate() {
            let panel = &mut packed[row / PANEL_ROWS * panel_bytes..][..panel_bytes];
            let blocks = bytes.chunks_exact(format.block_bytes());
            for (block, unit) in blocks.zip(panel.chunks_exact_mut(format.panel_bytes())) {
                format::pack_block(format, block, row % PANEL_ROWS, unit);
            }
        }
        Ok(Self { format, outputs, first_output, panel_bytes, panels })
    }

    pub(crate) fn panel(&self, index: usize) -> &[u8] {
        &self.panels.as_slice()[index * self.panel_bytes..][..self.panel_bytes]
    }

    pub(crate) fn panel_count(&self) -> usize {
        self.outputs.div_ceil(PANEL_ROWS)
    }
}

/// Panels that a tile multiplies together: `panel` of a segment and the next, where there is one.
#[derive(Clone, Copy, Debug)]
struct Pair {
    segment: usize,
    panel: usize,
}

/// Weights of a linear layer: one or more matrices that read the same input.
pub struct Linear {
    inputs: usize,
    outputs: usize,
    segments: Vec<Segment>,
    pairs: Vec<Pair>,
    bias: Option<Vec<f32>>,
}

impl Linear {
    /// Packs matrices, one below the other.
    pub fn pack(parts: &[Part<'_>], bias: Option<&[f32]>) -> Result<Self, PackError> {
        let found: Vec<usize> = parts.iter().map(|part| part.inputs).collect();
        let inputs = match found.first() {
            Some(&first) if found.iter().all(|&inputs| inputs == first) => first,
            _ => return Err(PackError::Inputs { found }),
        };
        let mut outputs = 0;
        let mut segments = Vec::with_capacity(parts.len());
        for part in parts {
            segments.push(Segment::pack(*part, outputs)?);
            outputs += part.outputs;
        }
        if let Some(bias) = bias
            && bias.len() != outputs
        {
            return Err(PackError::Bias { outputs, given: bias.len() });
        }
        let pairs = segments.iter().enumerate().flat_map(|(segment, packed)| {
            let count = packed.panel_count();
            (0..count).step_by(PANELS).map(move |panel| Pair { segment, panel })
        });
        Ok(Self {
            inputs,
            outputs,
            pairs: pairs.collect(),
            segments,
            bias: bias.map(<[f32]>::to_vec),
        })
    }

    /// Returns the number of values that it reads.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Returns the number of values that it writes.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Returns the bytes of the packed weights.
    pub fn bytes(&self) -> usize {
        self.segments.iter().map(|segment| segment.panels.as_slice().len()).sum()
    }

    /// Returns true if some of it is multiplied with activations as integers.
    pub(crate) fn is_quantized(&self) -> bool {
        self.segments.iter().any(|segment| segment.format.is_quantized())
    }

    /// Returns true if some of it is multiplied with activations in f32.
    pub(crate) fn is_float(&self) -> bool {
        self.segments.iter().any(|segment| !segment.format.is_quantized())
    }

    /// Returns its two matrices of equal size, if it is two of them.
    pub(crate) fn gate_up(&self) -> Option<[&Segment; 2]> {
        match &self.segments[..] {
            [gate, up] if gate.outputs == up.outputs => Some([gate, up]),
            _ => None,
        }
    }

    /// Writes the weights of one output, in single precision.
    pub(crate) fn row(&self, output: usize, out: &mut [f32]) {
        let segment = self.segments.iter().rev().find(|segment| segment.first_output <= output);
        let segment = segment.expect("the first segment begins at zero");
        let row = output - segment.first_output;
        let panel = segment.panel(row / PANEL_ROWS);
        let format = segment.format;
        let blocks = panel.chunks_exact(format.panel_bytes());
        for (block, out) in blocks.zip(out.chunks_exact_mut(format.block_values())) {
            format::unpack_block(format, block, row % PANEL_ROWS, out);
        }
    }

    fn bias(&self, first: usize) -> Option<&[f32]> {
        self.bias.as_ref().map(|bias| &bias[first..])
    }
}

/// Takes the results of tiles.
pub(crate) trait Sink: Sync {
    /// `values` are the outputs from `column` on of `row`.
    ///
    /// # Safety
    /// No other thread gives the same row and column.
    unsafe fn put(&self, thread: usize, row: usize, column: usize, values: &[f32]);
}

/// Writes results into a matrix, or adds them to it.
pub(crate) struct Rows<'a> {
    pub(crate) out: Shared<'a, f32>,
    pub(crate) stride: usize,
    pub(crate) add: bool,
}

impl Sink for Rows<'_> {
    #[inline(always)]
    unsafe fn put(&self, _thread: usize, row: usize, column: usize, values: &[f32]) {
        // SAFETY: the caller is alone with this row and these columns.
        let out = unsafe { self.out.part(row * self.stride + column, values.len()) };
        if self.add {
            out.iter_mut().zip(values).for_each(|(out, value)| *out += value);
        } else {
            out.copy_from_slice(values);
        }
    }
}

/// The multiplication of prepared rows with a layer.
pub(crate) struct Product<'a, S> {
    pub(crate) weight: &'a Linear,
    pub(crate) activations: View<'a>,
    pub(crate) rows: usize,
    /// Threads that take chunks in turn.
    pub(crate) threads: usize,
    pub(crate) sink: &'a S,
}

impl<S: Sink> Product<'_, S> {
    /// Returns the number of its chunks; any order and any threads give the same result.
    pub(crate) fn chunks(&self) -> usize {
        self.weight.pairs.len() * self.rows.div_ceil(CHUNK_ROWS)
    }

    pub(crate) fn chunk(&self, index: usize, thread: usize) -> ProductChunk<'_, S> {
        ProductChunk { product: self, index, thread }
    }
}

pub(crate) struct ProductChunk<'a, S> {
    product: &'a Product<'a, S>,
    index: usize,
    thread: usize,
}

/// Returns the first row and the number of rows of tile `tile`, where `tiles` tiles share `rows`
/// rows nearly equally.
#[inline(always)]
pub(crate) fn tile_rows(rows: usize, tiles: usize, tile: usize) -> (usize, usize) {
    let (each, more) = (rows / tiles, rows % tiles);
    (tile * each + tile.min(more), each + usize::from(tile < more))
}

pub(crate) fn chunk_rows(rows: usize, chunk: usize) -> (usize, usize) {
    let first = chunk * CHUNK_ROWS;
    (first, (rows - first).min(CHUNK_ROWS))
}

impl<S: Sink> Kernel for ProductChunk<'_, S> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Product { weight, rows, activations, sink, .. } = self.product;
        let pair = weight.pairs[self.index % weight.pairs.len()];
        let (first, count) = chunk_rows(*rows, self.index / weight.pairs.len());
        let segment = &weight.segments[pair.segment];
        let panel = pair.panel;
        let last = segment.panel_count() - 1;
        let inputs = Inputs {
            format: segment.format,
            // The last panel without a neighbor stands twice; its second results are dropped.
            panels: [segment.panel(panel), segment.panel((panel + 1).min(last))],
            activations: *activations,
            inputs: weight.inputs,
            ahead: 0,
        };
        let ahead = PANELS * self.product.threads * segment.panel_bytes;
        let column = segment.first_output + panel * PANEL_ROWS;
        let wide = (segment.outputs - panel * PANEL_ROWS).min(PANELS * PANEL_ROWS);
        let bias = weight.bias(column);
        let mut out: [Outputs; TILE_ROWS] = [[[0.0; PANEL_ROWS]; PANELS]; TILE_ROWS];
        let tiles = count.div_ceil(L::ROWS);
        for tile in 0..tiles {
            let (at, count) = tile_rows(count, tiles, tile);
            let at = first + at;
            // SAFETY: the instructions are promised by the caller; the chunk has these rows and
            // columns to itself.
            unsafe {
                let ahead = if tile == 0 { ahead } else { 0 };
                tile::compute::<L>(&Inputs { ahead, ..inputs }, at, count, &mut out);
                for (row, out) in out.iter_mut().take(count).enumerate() {
                    let values = &mut out.as_flattened_mut()[..wide];
                    if let Some(bias) = bias {
                        values.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
                    }
                    sink.put(self.thread, at + row, column, values);
                }
            }
        }
    }
}
