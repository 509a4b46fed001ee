//! Multiplication by a quantized matrix, with the norm before and the bias, residual or gate behind.
//!
//! A cube makes `rows x (columns * LANES)` outputs. Its units share the inputs out in [`SLICES`]
//! runs of blocks: each unit adds up its run in order, and the runs are added in order. How many
//! rows and columns a unit keeps in registers depends on the batch, the order of every sum does not.

use super::decode::{Place, Scale, read_scale, read_words, weight};
use super::format::{BLOCK, Format};
use super::gpu::arg;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::prelude::*;

/// Units beside each other, each with outputs of its own.
pub(super) const LANES: usize = 32;
/// Units that share the inputs of an output.
pub(super) const SLICES: usize = 8;
/// Units of a cube.
const UNITS: usize = LANES * SLICES;
/// Inputs kept in shared memory at a time, over all rows; and partial sums at the end.
const STAGED: usize = UNITS * 8;
/// Partial sums of squares that one unit adds up.
const PARTIALS: usize = 16;

/// The use of the products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Finish {
    /// Written.
    Store,
    /// Added to what is there.
    Add,
    /// `silu(gate) * up`; the matrix has the outputs of both, one below the other.
    Gate,
}

/// The compile-time options of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Plan {
    pub(super) format: Format,
    /// Rows of a cube.
    pub(super) rows: usize,
    /// Columns of a unit.
    pub(super) columns: usize,
    /// Blocks staged at a time; `rows * blocks` is at most 8.
    pub(super) blocks: usize,
    pub(super) normed: bool,
    pub(super) biased: bool,
    pub(super) finish: Finish,
}

impl Plan {
    /// Columns of a unit that make an output each.
    fn results(self) -> usize {
        match self.finish {
            Finish::Gate => self.columns / 2,
            Finish::Store | Finish::Add => self.columns,
        }
    }
}

/// Sizes of one launch.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) rows: u32,
    pub(super) inputs: u32,
    /// Columns of the matrix.
    pub(super) columns: u32,
    /// Width of the output.
    pub(super) width: u32,
    /// First column that this matrix writes.
    pub(super) first: u32,
    pub(super) eps: f32,
}

#[cube(launch)]
#[allow(clippy::too_many_arguments, reason = "every buffer of a kernel is an argument")]
fn linear_kernel(
    x: &[f32],
    gain: &[f32],
    quants: &[u32],
    scales: &[u32],
    bias: &[f32],
    out: &mut [f32],
    sizes: Sizes,
    #[comptime] plan: Plan,
) {
    let first_row = CUBE_POS_X as usize * plan.rows;
    let mut staged = Shared::<[f32]>::new_slice(STAGED);
    let mut inverse = Shared::<[f32]>::new_slice(plan.rows);
    if comptime!(plan.normed) {
        inverse_root_mean_squares(x, &mut staged, &mut inverse, first_row, &sizes, plan);
    }
    let mut sums = Array::<f32>::new(comptime!(plan.rows * plan.columns));
    let blocks = (sizes.inputs as usize).div_ceil(BLOCK);
    let run = blocks.div_ceil(SLICES);
    let steps = run.div_ceil(comptime!(plan.blocks));
    for step in 0..steps {
        let at = step * comptime!(plan.blocks);
        sync_cube();
        stage(x, gain, &mut staged, &inverse, first_row, at, run, &sizes, plan);
        sync_cube();
        let slice = UNIT_POS_Y as usize;
        #[unroll]
        for index in 0..comptime!(plan.blocks) {
            let block = slice * run + at + index;
            if at + index < run && block < blocks {
                add_block(quants, scales, &staged, &mut sums, block, index, blocks, &sizes, plan);
            }
        }
    }
    finish(bias, out, &mut staged, &sums, first_row, &sizes, plan);
}

/// Returns the column of the matrix for a unit's `index`-th, clamped to the last.
#[cube]
fn column(lane: usize, sizes: &Sizes, #[comptime] index: usize, #[comptime] plan: Plan) -> usize {
    let results = comptime!(plan.results());
    let base = CUBE_POS_Y as usize * comptime!(results * LANES);
    let within = base + comptime!(index % results * LANES) + lane;
    if comptime!(plan.finish == Finish::Gate) {
        let half = sizes.columns as usize / 2;
        min(within, half - 1) + half * comptime!(index / results)
    } else {
        min(within, sizes.columns as usize - 1)
    }
}

/// Computes `inverse[row] = 1 / sqrt(mean(x[row]^2) + eps)`, added up in an order of its own that
/// is the same for every plan.
#[cube]
#[allow(clippy::too_many_arguments, reason = "a part of the kernel")]
fn inverse_root_mean_squares(
    x: &[f32],
    staged: &mut Shared<[f32]>,
    inverse: &mut Shared<[f32]>,
    first_row: usize,
    sizes: &Sizes,
    #[comptime] plan: Plan,
) {
    let inputs = sizes.inputs as usize;
    let unit = UNIT_POS as usize;
    #[unroll]
    for row in 0..plan.rows {
        let base = min(first_row + row, sizes.rows as usize - 1) * inputs;
        let mut sum = 0.0f32;
        for step in 0..inputs.div_ceil(UNITS) {
            let input = step * UNITS + unit;
            if input < inputs {
                let value = x[base + input];
                sum = fma(value, value, sum);
            }
        }
        staged[row * UNITS + unit] = sum;
    }
    sync_cube();
    let mut part = 0.0f32;
    if unit < comptime!(plan.rows * PARTIALS) {
        for index in 0..comptime!(UNITS / PARTIALS) {
            part += staged[unit * comptime!(UNITS / PARTIALS) + index];
        }
    }
    sync_cube();
    if unit < comptime!(plan.rows * PARTIALS) {
        staged[unit] = part;
    }
    sync_cube();
    if unit < plan.rows {
        let mut sum = 0.0f32;
        for index in 0..PARTIALS {
            sum += staged[unit * PARTIALS + index];
        }
        inverse[unit] = 1.0 / (sum / f32::cast_from(sizes.inputs) + sizes.eps).sqrt();
    }
}

/// Copies the inputs of some blocks of every slice: `[slice][row][block * 32]`.
#[cube]
#[allow(clippy::too_many_arguments, reason = "a part of the kernel")]
fn stage(
    x: &[f32],
    gain: &[f32],
    staged: &mut Shared<[f32]>,
    inverse: &Shared<[f32]>,
    first_row: usize,
    at: usize,
    run: usize,
    sizes: &Sizes,
    #[comptime] plan: Plan,
) {
    let width = comptime!(plan.blocks * BLOCK);
    let inputs = sizes.inputs as usize;
    for step in 0..comptime!(plan.rows * plan.blocks) {
        let place = step * UNITS + UNIT_POS as usize;
        let slice = place / comptime!(width * plan.rows);
        let row = place / width % plan.rows;
        let input = (slice * run + at) * BLOCK + place % width;
        let mut value = 0.0f32;
        if first_row + row < sizes.rows as usize && input < inputs {
            value = x[(first_row + row) * inputs + input];
            if comptime!(plan.normed) {
                value = value * inverse[row] * gain[input];
            }
        }
        staged[place] = value;
    }
}

/// Adds the products of one block to the sums.
#[cube]
#[allow(clippy::too_many_arguments, reason = "a part of the kernel")]
fn add_block(
    quants: &[u32],
    scales: &[u32],
    staged: &Shared<[f32]>,
    sums: &mut Array<f32>,
    block: usize,
    index: usize,
    blocks: usize,
    sizes: &Sizes,
    #[comptime] plan: Plan,
) {
    let columns = sizes.columns as usize;
    let supers = blocks.div_ceil(8usize);
    let width = comptime!(plan.blocks * BLOCK);
    let base = UNIT_POS_Y as usize * comptime!(width * plan.rows) + index * BLOCK;
    let lane = UNIT_POS_X as usize;
    let words_each = comptime!(plan.format.group_words());
    let halves = comptime!(if plan.format.halves() { 2usize } else { 1usize });
    #[unroll]
    for half in 0..halves {
        let mut factors = Array::<f32>::new(plan.columns);
        let mut offsets = Array::<f32>::new(plan.columns);
        #[unroll]
        for n in 0..plan.columns {
            let place = Place { block, column: column(lane, sizes, n, plan), columns, supers };
            let scale = read_scale(scales, &place, plan.format, comptime!(half as u32));
            factors[n] = scale.factor;
            offsets[n] = scale.offset;
        }
        for step in 0..comptime!(4 / halves) {
            let group = comptime!(half * 2) + step;
            let mut words = Array::<u32>::new(comptime!(plan.columns * words_each));
            #[unroll]
            for n in 0..plan.columns {
                let place = Place { block, column: column(lane, sizes, n, plan), columns, supers };
                read_words(quants, &place, group, &mut words, plan.format, n * words_each);
            }
            #[unroll]
            for input in 0..8 {
                let mut values = Array::<f32>::new(plan.rows);
                #[unroll]
                for row in 0..plan.rows {
                    values[row] = staged[base + group * 8 + row * width + input];
                }
                #[unroll]
                for n in 0..plan.columns {
                    let scale = Scale { factor: factors[n], offset: offsets[n] };
                    let weight = weight(&words, &scale, plan.format, n * words_each, input);
                    #[unroll]
                    for row in 0..plan.rows {
                        let at = comptime!(row * plan.columns + n);
                        sums[at] = fma(weight, values[row], sums[at]);
                    }
                }
            }
        }
    }
}

/// Adds up the slices' sums, and writes what is made of them.
#[cube]
#[allow(clippy::too_many_arguments, reason = "a part of the kernel")]
fn finish(
    bias: &[f32],
    out: &mut [f32],
    staged: &mut Shared<[f32]>,
    sums: &Array<f32>,
    first_row: usize,
    sizes: &Sizes,
    #[comptime] plan: Plan,
) {
    let unit = UNIT_POS as usize;
    let across = comptime!(plan.columns * LANES);
    let results = comptime!(plan.results() * LANES);
    let output = CUBE_POS_Y as usize * results + unit;
    #[unroll]
    for row in 0..plan.rows {
        sync_cube();
        #[unroll]
        for n in 0..plan.columns {
            let place = UNIT_POS_Y as usize * across + comptime!(n * LANES) + UNIT_POS_X as usize;
            staged[place] = sums[comptime!(row * plan.columns + n)];
        }
        sync_cube();
        let made = sizes.columns as usize / comptime!(plan.columns / plan.results());
        if unit < results && output < made && first_row + row < sizes.rows as usize {
            let mut value = add_slices(staged, unit, across);
            if comptime!(plan.biased) {
                value += bias[sizes.first as usize + output];
            }
            let at = (first_row + row) * sizes.width as usize + sizes.first as usize + output;
            if comptime!(plan.finish == Finish::Gate) {
                let mut up = add_slices(staged, unit + results, across);
                if comptime!(plan.biased) {
                    up += bias[sizes.first as usize + output + made];
                }
                value = silu(value) * up;
            }
            if comptime!(plan.finish == Finish::Add) {
                value += out[at];
            }
            out[at] = value;
        }
    }
}

#[cube]
fn add_slices(staged: &mut Shared<[f32]>, place: usize, #[comptime] across: usize) -> f32 {
    let mut sum = staged[place];
    #[unroll]
    for slice in 1..SLICES {
        sum += staged[place + comptime!(slice * across)];
    }
    sum
}

#[cube]
pub(super) fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

/// The buffers of a launch; what a plan has no use for may be anything.
pub(super) struct Buffers<'a> {
    pub(super) x: &'a CubeTensor,
    pub(super) gain: &'a CubeTensor,
    pub(super) quants: &'a CubeTensor,
    pub(super) scales: &'a CubeTensor,
    pub(super) bias: &'a CubeTensor,
    pub(super) out: &'a CubeTensor,
}

/// Sizes of a launch, on the host.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    pub(super) rows: usize,
    pub(super) inputs: usize,
    pub(super) columns: usize,
    pub(super) width: usize,
    pub(super) first: usize,
    pub(super) eps: f32,
}

/// Blocks to stage at a time, with `rows` rows of `inputs` inputs.
pub(super) fn staged_blocks(rows: usize, inputs: usize) -> usize {
    let run = inputs.div_ceil(BLOCK).div_ceil(SLICES);
    (8 / rows).min(run.next_power_of_two())
}

pub(super) fn launch(client: &Client, buffers: &Buffers, extent: Extent, plan: Plan) {
    let outputs = extent.columns * plan.results() / plan.columns;
    let count = CubeCount::Static(
        extent.rows.div_ceil(plan.rows) as u32,
        outputs.div_ceil(plan.results() * LANES) as u32,
        1,
    );
    let sizes = SizesLaunch::new(
        extent.rows as u32,
        extent.inputs as u32,
        extent.columns as u32,
        extent.width as u32,
        extent.first as u32,
        extent.eps,
    );
    linear_kernel::launch(
        client,
        count,
        CubeDim::new_2d(LANES as u32, SLICES as u32),
        arg(buffers.x),
        arg(buffers.gain),
        arg(buffers.quants),
        arg(buffers.scales),
        arg(buffers.bias),
        arg(buffers.out),
        sizes,
        plan,
    );
}
