//! Copying rows: embeddings from a matrix, and the rows that the head wants.

use super::decode::{Place, read_scale, read_words, weight};
use super::format::{BLOCK, Format};
use super::gpu::arg;
use super::linear::silu;
use super::weights::Matrix;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::prelude::*;

const UNITS: u32 = 64;

/// Column `tokens[row]` of a matrix becomes row `row`; a unit decodes a block.
#[cube(launch)]
#[allow(clippy::too_many_arguments, reason = "every buffer of a kernel is an argument")]
fn embed_kernel(
    tokens: &[u32],
    quants: &[u32],
    scales: &[u32],
    out: &mut [f32],
    inputs: u32,
    columns: u32,
    #[comptime] format: Format,
) {
    let inputs = inputs as usize;
    let blocks = inputs.div_ceil(BLOCK);
    let row = CUBE_POS_X as usize;
    let block = (CUBE_POS_Y * UNITS + UNIT_POS_X) as usize;
    if block < blocks {
        let column = tokens[row] as usize;
        let supers = blocks.div_ceil(8usize);
        let place = Place { block, column, columns: columns as usize, supers };
        #[unroll]
        for group in 0..4 {
            let half = comptime!(if format.halves() { group as u32 / 2 } else { 0 });
            let scale = read_scale(scales, &place, format, half);
            let mut words = Array::<u32>::new(comptime!(format.group_words()));
            read_words(quants, &place, group, &mut words, format, 0usize);
            #[unroll]
            for index in 0..8 {
                let input = block * BLOCK + comptime!(group * 8 + index);
                if input < inputs {
                    out[row * inputs + input] = weight(&words, &scale, format, 0usize, index);
                }
            }
        }
    }
}

/// `out[i] = x[rows[i]]`
#[cube(launch)]
fn gather_kernel(rows: &[u32], x: &[f32], out: &mut [f32], width: u32) {
    let at = CUBE_POS_Y * UNITS + UNIT_POS_X;
    if at < width {
        let row = rows[CUBE_POS_X as usize] as usize;
        let from = row * width as usize + at as usize;
        out[CUBE_POS_X as usize * width as usize + at as usize] = x[from];
    }
}

/// `out = silu(gate) * up` of rows that hold both side by side; `width` is that of one.
#[cube(launch)]
fn gate_kernel(both: &[f32], out: &mut [f32], width: u32) {
    let at = CUBE_POS_Y * UNITS + UNIT_POS_X;
    if at < width {
        let (row, at, width) = (CUBE_POS_X as usize, at as usize, width as usize);
        let gate = both[row * 2 * width + at];
        let up = both[row * 2 * width + width + at];
        out[row * width + at] = silu(gate) * up;
    }
}

fn grid(rows: usize, items: usize) -> (CubeCount, CubeDim) {
    let across = (items as u32).div_ceil(UNITS);
    (CubeCount::Static(rows as u32, across, 1), CubeDim::new_1d(UNITS))
}

pub(super) fn embed(
    client: &Client,
    tokens: &CubeTensor,
    rows: usize,
    matrix: &Matrix,
    inputs: usize,
    out: &CubeTensor,
) {
    let (count, dim) = grid(rows, inputs.div_ceil(BLOCK));
    embed_kernel::launch(
        client,
        count,
        dim,
        arg(tokens),
        arg(&matrix.quants),
        arg(&matrix.scales),
        arg(out),
        inputs as u32,
        matrix.columns as u32,
        matrix.format,
    );
}

/// `out[i] = x[rows[i]]`, for `count` rows.
pub(super) fn gather(
    client: &Client,
    rows: &CubeTensor,
    count: usize,
    x: &CubeTensor,
    width: usize,
    out: &CubeTensor,
) {
    let (count, dim) = grid(count, width);
    gather_kernel::launch(client, count, dim, arg(rows), arg(x), arg(out), width as u32);
}

/// `out = silu(gate) * up` of rows that hold both side by side; `width` is that of one.
pub(super) fn gate(
    client: &Client,
    both: &CubeTensor,
    out: &CubeTensor,
    rows: usize,
    width: usize,
) {
    let (count, dim) = grid(rows, width);
    gate_kernel::launch(client, count, dim, arg(both), arg(out), width as u32);
}
