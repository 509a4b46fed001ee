//! What a linear layer reads: rows, normed where a norm stands in front, in 8 bits or in f32.

use crate::format::BLOCK;
use crate::isa::Kernel;
use crate::lanes::{LANES, Lanes};
use crate::memory::{Aligned, Shared};

/// 32 values in 8 bits, with all that any weight format needs of them; one cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Block {
    /// The values divided by the scale, to nearest.
    pub(crate) quants: [i8; BLOCK],
    /// The largest magnitude divided by 127.
    pub(crate) scale: f32,
    /// Sum of the quants times the scale: what a weight's minimum is multiplied with.
    pub(crate) shift: f32,
    /// -8 times the sum of the quants: where weights lie around 8.
    pub(crate) around_8: i32,
    /// -128 times the sum of the quants.
    pub(crate) around_128: i32,
    /// -32 times the sum of each half of the quants.
    pub(crate) halves_around_32: [i32; 2],
    pad: [i32; 2],
}

const EMPTY: Block = Block {
    quants: [0; BLOCK],
    scale: 0.0,
    shift: 0.0,
    around_8: 0,
    around_128: 0,
    halves_around_32: [0; 2],
    pad: [0; 2],
};

/// Weights of a norm, on the kernels' side.
pub struct Vector(pub(crate) Aligned<f32>);

impl Vector {
    /// Copies `values`.
    pub fn new(values: &[f32]) -> Self {
        // Whole vectors of zeros behind the last value are read along.
        let mut data = Aligned::zeroed(values.len().next_multiple_of(LANES));
        data.as_mut_slice()[..values.len()].copy_from_slice(values);
        Self(data)
    }
}

/// A norm by the root of the mean square.
#[derive(Clone, Copy)]
pub struct RmsNorm<'a> {
    /// A weight per value.
    pub weight: &'a Vector,
    /// Added to the mean square.
    pub eps: f32,
}

/// Prepared rows; kept and filled again.
pub(crate) struct Activations {
    blocks: Vec<Block>,
    blocks_each: usize,
    planes: usize,
    /// Rows in f32 where a weight wants them, else a row for each thread on its way to 8 bits.
    floats: Aligned<f32>,
    stride: usize,
}

impl Default for Activations {
    fn default() -> Self {
        Self { blocks: Vec::new(), blocks_each: 0, planes: 1, floats: Aligned::new(), stride: 0 }
    }
}

/// The rows of prepared activations.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    /// Plane after plane of each row.
    pub(crate) blocks: &'a [Block],
    /// Blocks in a plane of a row.
    pub(crate) blocks_each: usize,
    /// Rows in 8 bits that together make one.
    pub(crate) planes: usize,
    pub(crate) floats: &'a [f32],
    pub(crate) stride: usize,
}

impl Activations {
    /// Makes room for so many rows of `width` in `planes` times 8 bits, and in f32.
    pub(crate) fn reshape(
        &mut self,
        width: usize,
        (block_rows, planes): (usize, usize),
        float_rows: usize,
    ) {
        self.stride = width.next_multiple_of(LANES);
        self.floats.resize(float_rows * self.stride);
        self.blocks_each = if block_rows > 0 { width / BLOCK } else { 0 };
        self.planes = planes;
        self.blocks.resize(block_rows * planes * self.blocks_each, EMPTY);
    }

    pub(crate) fn view(&self) -> View<'_> {
        View {
            blocks: &self.blocks,
            blocks_each: self.blocks_each,
            planes: self.planes,
            floats: self.floats.as_slice(),
            stride: self.stride,
        }
    }

    /// The places that threads fill.
    pub(crate) fn targets(&mut self) -> (Shared<'_, Block>, Shared<'_, f32>) {
        (Shared::new(&mut self.blocks), Shared::new(self.floats.as_mut_slice()))
    }
}

/// Prepares one row: `floats` gets it normed, `blocks` (empty when not wanted) in 8 bits.
pub(crate) struct PrepareRow<'a> {
    /// Padded with zeros to whole vectors, as are the weights of the norm and `floats`.
    pub(crate) x: &'a [f32],
    pub(crate) width: usize,
    pub(crate) norm: Option<RmsNorm<'a>>,
    pub(crate) floats: &'a mut [f32],
    pub(crate) blocks: &'a mut [Block],
}

impl Kernel for PrepareRow<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Self { x, width, norm, floats, blocks } = self;
        assert!(x.len().is_multiple_of(LANES) && floats.len() == x.len(), "rows are padded");
        let blocks_each = width / BLOCK;
        assert!(blocks.is_empty() || blocks_each * BLOCK == width, "rows divide into blocks");
        // SAFETY: the instructions are promised by the caller; every load and store is within
        // slices whose lengths were compared.
        unsafe {
            match norm {
                None => floats.copy_from_slice(x),
                Some(norm) => norm_row::<L>(x, width, norm, floats),
            }
            if blocks.is_empty() {
                return;
            }
            let (coarse, fine) = blocks.split_at_mut(blocks_each);
            for (values, block) in floats.chunks_exact(BLOCK).zip(coarse.iter_mut()) {
                quantise::<L>(values, block);
            }
            for ((values, coarse), fine) in floats.chunks_exact(BLOCK).zip(coarse).zip(fine) {
                let rest = rest::<L>(values, coarse);
                quantise::<L>(&rest, fine);
            }
        }
    }
}

/// # Safety
/// The machine has the instructions of `L`.
#[inline(always)]
pub(crate) unsafe fn norm_row<L: Lanes>(
    x: &[f32],
    width: usize,
    norm: RmsNorm<'_>,
    out: &mut [f32],
) {
    let weight = norm.weight.0.as_slice();
    assert!(weight.len() == x.len() && out.len() == x.len(), "a norm has a weight per value");
    assert!(x.len().is_multiple_of(LANES), "rows are padded");
    // SAFETY: the instructions are promised by the caller; all slices have whole vectors and the
    // same length.
    unsafe {
        let mut squares = L::splat(0.0);
        for at in (0..x.len()).step_by(LANES) {
            let values = L::load(x.as_ptr().add(at));
            squares = L::fma(values, values, squares);
        }
        let mean = L::sum(squares) / width as f32;
        let factor = L::splat(1.0 / (mean + norm.eps).sqrt());
        for at in (0..x.len()).step_by(LANES) {
            let values = L::mul(L::load(x.as_ptr().add(at)), factor);
            let weighted = L::mul(values, L::load(weight.as_ptr().add(at)));
            L::store(out.as_mut_ptr().add(at), weighted);
        }
    }
}

/// # Safety
/// The machine has the instructions of `L`.
#[inline(always)]
unsafe fn quantise<L: Lanes>(values: &[f32], block: &mut Block) {
    assert_eq!(values.len(), BLOCK, "a block is full");
    // SAFETY: the instructions are promised by the caller; 32 values and 32 quants are there.
    unsafe {
        let first = L::load(values.as_ptr());
        let second = L::load(values.as_ptr().add(LANES));
        let most = L::largest(L::max(L::abs(first), L::abs(second)));
        let inverse = L::splat(if most > 0.0 { 127.0 / most } else { 0.0 });
        let first = L::to_i(L::mul(first, inverse));
        let second = L::to_i(L::mul(second, inverse));
        L::store_i8(block.quants.as_mut_ptr(), first);
        L::store_i8(block.quants.as_mut_ptr().add(LANES), second);
        let sums = [L::sum_i(first), L::sum_i(second)];
        let sum = sums[0].wrapping_add(sums[1]);
        block.scale = most / 127.0;
        block.shift = block.scale * sum as f32;
        block.around_8 = sum.wrapping_mul(-8);
        block.around_128 = sum.wrapping_mul(-128);
        block.halves_around_32 = sums.map(|sum| sum.wrapping_mul(-32));
    }
}

/// What `block` leaves of the values that it was made from.
///
/// # Safety
/// The machine has the instructions of `L`.
#[inline(always)]
unsafe fn rest<L: Lanes>(values: &[f32], block: &Block) -> [f32; BLOCK] {
    assert_eq!(values.len(), BLOCK, "a block is full");
    let mut rest = [0.0; BLOCK];
    // SAFETY: the instructions are promised by the caller; 32 values and 32 quants are there.
    unsafe {
        let scale = L::splat(-block.scale);
        for half in [0, LANES] {
            let quants = L::load_i8(block.quants.as_ptr().add(half).cast());
            let left = L::fma(quants, scale, L::load(values.as_ptr().add(half)));
            L::store(rest.as_mut_ptr().add(half), left);
        }
    }
    rest
}
