//! Inputs of linear layers: rows, normed where a norm stands in front, as integers or in f32.

use crate::format::BLOCK;
use crate::lanes::{Kernel, LANES, Lanes, Pairs};
use crate::memory::{Aligned, Shared};
use crate::precision::Precision;

/// 32 values as integers, with all that any weight format needs of them.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Block<Q> {
    /// The values divided by the scale, to nearest, in the order of [`Quant::put`].
    pub(crate) quants: [Q; BLOCK],
    /// The largest magnitude divided by [`Quant::LARGEST`].
    pub(crate) scale: f32,
    /// Sum of the quants times the scale: the factor of a weight's minimum.
    pub(crate) shift: f32,
    /// -8 times the sum of the quants: where weights lie around 8.
    pub(crate) around_8: i32,
    /// -128 times the sum of the quants.
    pub(crate) around_128: i32,
    /// -32 times the sum of each half of the quants.
    pub(crate) halves_around_32: [i32; 2],
}

impl<Q: Quant> Block<Q> {
    const EMPTY: Self = Self {
        quants: [Q::ZERO; BLOCK],
        scale: 0.0,
        shift: 0.0,
        around_8: 0,
        around_128: 0,
        halves_around_32: [0; 2],
    };
}

/// An integer that activations are rounded to.
pub(crate) trait Quant: Copy + Send + Sync + 'static {
    /// Zero.
    const ZERO: Self;
    /// The largest quant of a block. Every dot product of a block, with any weights, fits in an i32.
    const LARGEST: f32;
    /// Four quants, as [`Quant::dot`] reads them.
    type Four: Copy;

    /// Stores the two vectors of a block.
    ///
    /// # Safety
    /// The machine has the instructions of `L`.
    unsafe fn put<L: Lanes>(vectors: [L::I; 2], quants: &mut [Self; BLOCK]);

    /// Reads group `group` of four.
    ///
    /// # Safety
    /// `quants` begins a block's quants, and `group` is below eight.
    unsafe fn four(quants: *const Self, group: usize) -> Self::Four;

    /// Adds to each lane the dot product of its four unsigned bytes and `x`.
    ///
    /// # Safety
    /// The machine has the instructions of `L`.
    unsafe fn dot<L: Lanes>(sum: L::I, bytes: L::B, x: Self::Four) -> L::I;
}

impl Quant for i8 {
    const ZERO: Self = 0;
    const LARGEST: f32 = 127.0;
    type Four = i32;

    #[inline(always)]
    unsafe fn put<L: Lanes>(vectors: [L::I; 2], quants: &mut [Self; BLOCK]) {
        // SAFETY: the instructions are promised by the caller; there are 32 quants.
        unsafe {
            L::store_i8(quants.as_mut_ptr(), vectors[0]);
            L::store_i8(quants.as_mut_ptr().add(LANES), vectors[1]);
        }
    }

    #[inline(always)]
    unsafe fn four(quants: *const Self, group: usize) -> i32 {
        // SAFETY: promised by the caller; quants begin at a cache line.
        unsafe { quants.cast::<i32>().add(group).read() }
    }

    #[inline(always)]
    unsafe fn dot<L: Lanes>(sum: L::I, bytes: L::B, x: i32) -> L::I {
        // SAFETY: promised by the caller.
        unsafe { L::dot(sum, bytes, x) }
    }
}

impl Quant for i16 {
    const ZERO: Self = 0;
    const LARGEST: f32 = 32_767.0;
    type Four = Pairs;

    /// The second and third of every four change places: even and odd ones are neighbors, as
    /// multiplications of 16-bit pairs want them.
    #[inline(always)]
    unsafe fn put<L: Lanes>(vectors: [L::I; 2], quants: &mut [Self; BLOCK]) {
        let mut lanes = [0; BLOCK];
        // SAFETY: the instructions are promised by the caller; there are 32 lanes.
        unsafe {
            L::store_i(lanes.as_mut_ptr(), vectors[0]);
            L::store_i(lanes.as_mut_ptr().add(LANES), vectors[1]);
        }
        for (quants, lanes) in quants.chunks_exact_mut(4).zip(lanes.chunks_exact(4)) {
            quants[0] = lanes[0] as i16;
            quants[1] = lanes[2] as i16;
            quants[2] = lanes[1] as i16;
            quants[3] = lanes[3] as i16;
        }
    }

    #[inline(always)]
    unsafe fn four(quants: *const Self, group: usize) -> Pairs {
        // SAFETY: promised by the caller; quants begin at a cache line.
        unsafe {
            let pairs = quants.cast::<i32>().add(2 * group);
            Pairs { even: pairs.read(), odd: pairs.add(1).read() }
        }
    }

    #[inline(always)]
    unsafe fn dot<L: Lanes>(sum: L::I, bytes: L::B, x: Pairs) -> L::I {
        // SAFETY: promised by the caller.
        unsafe { L::dot_16(sum, bytes, x) }
    }
}

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
    precision: Precision,
    int8: Vec<Block<i8>>,
    int16: Vec<Block<i16>>,
    blocks_each: usize,
    /// Rows in f32 where a weight wants them, else a row for each thread on its way to integers.
    floats: Aligned<f32>,
    stride: usize,
}

/// The rows of prepared activations.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) blocks: Blocks<'a>,
    /// Blocks in a row.
    pub(crate) blocks_each: usize,
    pub(crate) floats: &'a [f32],
    pub(crate) stride: usize,
}

/// Rows as integers, one after the other.
#[derive(Clone, Copy)]
pub(crate) enum Blocks<'a> {
    Int8(&'a [Block<i8>]),
    Int16(&'a [Block<i16>]),
}

/// The places that threads fill with prepared rows.
pub(crate) enum Targets<'a> {
    Int8(Shared<'a, Block<i8>>),
    Int16(Shared<'a, Block<i16>>),
}

impl Activations {
    /// Without rows.
    pub(crate) fn new(precision: Precision) -> Self {
        Self {
            precision,
            int8: Vec::new(),
            int16: Vec::new(),
            blocks_each: 0,
            floats: Aligned::new(),
            stride: 0,
        }
    }

    /// Makes room for `block_rows` rows of `width` as integers, and `float_rows` in f32.
    pub(crate) fn reshape(&mut self, width: usize, block_rows: usize, float_rows: usize) {
        self.stride = width.next_multiple_of(LANES);
        self.floats.resize(float_rows * self.stride);
        self.blocks_each = if block_rows > 0 { width / BLOCK } else { 0 };
        let blocks = block_rows * self.blocks_each;
        match self.precision {
            Precision::Int8 => self.int8.resize(blocks, Block::EMPTY),
            Precision::Int16 => self.int16.resize(blocks, Block::EMPTY),
        }
    }

    pub(crate) fn view(&self) -> View<'_> {
        let blocks = match self.precision {
            Precision::Int8 => Blocks::Int8(&self.int8),
            Precision::Int16 => Blocks::Int16(&self.int16),
        };
        let blocks_each = self.blocks_each;
        View { blocks, blocks_each, floats: self.floats.as_slice(), stride: self.stride }
    }

    pub(crate) fn targets(&mut self) -> (Targets<'_>, Shared<'_, f32>) {
        let blocks = match self.precision {
            Precision::Int8 => Targets::Int8(Shared::new(&mut self.int8)),
            Precision::Int16 => Targets::Int16(Shared::new(&mut self.int16)),
        };
        (blocks, Shared::new(self.floats.as_mut_slice()))
    }
}

/// The preparation of one row: `floats` gets it normed, `blocks` (empty when not wanted) as integers.
pub(crate) struct PrepareRow<'a, Q> {
    /// Padded with zeros to whole vectors, as are the weights of the norm and `floats`.
    pub(crate) x: &'a [f32],
    pub(crate) width: usize,
    pub(crate) norm: Option<RmsNorm<'a>>,
    pub(crate) floats: &'a mut [f32],
    pub(crate) blocks: &'a mut [Block<Q>],
}

impl<Q: Quant> Kernel for PrepareRow<'_, Q> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Self { x, width, norm, floats, blocks } = self;
        assert!(x.len().is_multiple_of(LANES) && floats.len() == x.len(), "rows are padded");
        let is_whole = blocks.len() * BLOCK == width;
        assert!(blocks.is_empty() || is_whole, "rows divide into blocks");
        // SAFETY: the instructions are promised by the caller; every load and store is within
        // slices whose lengths were compared.
        unsafe {
            match norm {
                None => floats.copy_from_slice(x),
                Some(norm) => norm_row::<L>(x, width, norm, floats),
            }
            for (values, block) in floats.chunks_exact(BLOCK).zip(blocks) {
                quantize::<L, Q>(values, block);
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
unsafe fn quantize<L: Lanes, Q: Quant>(values: &[f32], block: &mut Block<Q>) {
    assert_eq!(values.len(), BLOCK, "a block is full");
    // SAFETY: the instructions are promised by the caller; 32 values are there.
    unsafe {
        let first = L::load(values.as_ptr());
        let second = L::load(values.as_ptr().add(LANES));
        let most = L::largest(L::max(L::abs(first), L::abs(second)));
        let inverse = L::splat(if most > 0.0 { Q::LARGEST / most } else { 0.0 });
        let vectors = [L::to_i(L::mul(first, inverse)), L::to_i(L::mul(second, inverse))];
        Q::put::<L>(vectors, &mut block.quants);
        let sums = [L::sum_i(vectors[0]), L::sum_i(vectors[1])];
        let sum = sums[0].wrapping_add(sums[1]);
        block.scale = most / Q::LARGEST;
        block.shift = block.scale * sum as f32;
        block.around_8 = sum.wrapping_mul(-8);
        block.around_128 = sum.wrapping_mul(-128);
        block.halves_around_32 = sums.map(|sum| sum.wrapping_mul(-32));
    }
}
