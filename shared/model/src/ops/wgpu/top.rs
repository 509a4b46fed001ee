//! The most likely tokens of rows of logits.
//!
//! First the best of each chunk of the vocabulary, side by side, then the best of those. Both find
//! one token after the other: the highest logit, and of equal ones the lowest token, behind the one
//! found before.

use super::gpu::{Gpu, arg};
use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

const UNITS: usize = 64;
/// Logits that a cube of the first pass searches.
const CHUNK: usize = UNITS * 32;
/// The most tokens found on the device; who wants more reads the row.
pub(super) const TOP_MAX: usize = 64;
/// A token that no vocabulary has.
const NONE: u32 = u32::MAX;
/// Below every logit.
const LOWEST: f32 = f32::MIN;

/// A token and its logit.
#[derive(CubeType, Clone, Copy)]
struct Found {
    logit: f32,
    token: u32,
}

/// Returns true if `a` is more likely than `b`.
#[cube]
fn ahead(a: &Found, b: &Found) -> bool {
    a.logit > b.logit || (a.logit == b.logit && a.token < b.token)
}

/// Runs the first pass, in which `tokens` are the places themselves, or the second, over the
/// results of the first. Its results lie in order of row, chunk and rank.
#[cube(launch)]
#[allow(clippy::too_many_arguments, reason = "every buffer of a kernel is an argument")]
fn top_kernel(
    values: &[f32],
    tokens: &[u32],
    found: &mut [f32],
    found_tokens: &mut [u32],
    width: u32,
    chunk: u32,
    top: u32,
    #[comptime] listed: bool,
    #[comptime] planes: bool,
) {
    let row = CUBE_POS_X as usize;
    let (width, chunk, top) = (width as usize, chunk as usize, top as usize);
    let first = CUBE_POS_Y as usize * chunk;
    let last = min(first + chunk, width);
    let unit = UNIT_POS as usize;
    let mut logits = Shared::<[f32]>::new_slice(UNITS);
    let mut ids = Shared::<[u32]>::new_slice(UNITS);
    let to = (row * CUBE_COUNT_Y as usize + CUBE_POS_Y as usize) * top;
    let mut bound = Found { logit: LOWEST, token: 0u32 };
    for rank in 0..top {
        let mut best = Found { logit: LOWEST, token: NONE };
        for step in 0..chunk.div_ceil(UNITS) {
            let at = first + step * UNITS + unit;
            if at < last {
                let place = row * width + at;
                let mut token = at as u32;
                if comptime!(listed) {
                    token = tokens[place];
                }
                let one = Found { logit: values[place], token };
                let open = rank == 0 || ahead(&bound, &one);
                if open && ahead(&one, &best) {
                    best.logit = one.logit;
                    best.token = one.token;
                }
            }
        }
        settle(&best, &mut logits, &mut ids, planes);
        bound.logit = logits[0];
        bound.token = ids[0];
        if unit == 0 {
            found[to + rank] = bound.logit;
            found_tokens[to + rank] = bound.token;
        }
        sync_cube();
    }
}

/// Puts the most likely of what the units found first.
#[cube]
fn settle(
    best: &Found,
    logits: &mut Shared<[f32]>,
    ids: &mut Shared<[u32]>,
    #[comptime] planes: bool,
) {
    let unit = UNIT_POS as usize;
    if comptime!(planes) {
        let logit = plane_max(best.logit);
        let token = plane_min(select(best.logit == logit, best.token, NONE));
        if UNIT_POS_PLANE == 0 {
            logits[PLANE_POS as usize] = logit;
            ids[PLANE_POS as usize] = token;
        }
    } else {
        logits[unit] = best.logit;
        ids[unit] = best.token;
    }
    sync_cube();
    let mut left = comptime!(UNITS).runtime();
    if comptime!(planes) {
        left = UNITS / PLANE_DIM as usize;
    }
    while left > 1 {
        let half = left / 2;
        if unit < half {
            let own = Found { logit: logits[unit], token: ids[unit] };
            let other = Found { logit: logits[unit + half], token: ids[unit + half] };
            if ahead(&other, &own) {
                logits[unit] = other.logit;
                ids[unit] = other.token;
            }
        }
        sync_cube();
        left = half;
    }
}

/// Logits and tokens of each row's most likely tokens, `[rows, top]` each.
pub(super) struct Best {
    pub(super) logits: CubeTensor,
    pub(super) tokens: CubeTensor,
}

/// Finds the `top` most likely tokens of each of `rows` rows of `vocab` logits. Of `all`, no token is
/// read.
pub(super) fn best(gpu: &Gpu, all: &Best, rows: usize, vocab: usize, top: usize) -> Best {
    let chunks = vocab.div_ceil(CHUNK);
    let room = |each: usize| Best {
        logits: gpu.empty(rows * each * top, DType::F32),
        tokens: gpu.empty(rows * each * top, DType::U32),
    };
    let chunked = room(chunks);
    let pass = |from: &Best, to: &Best, (width, chunk): (usize, usize), listed: bool| {
        let count = CubeCount::Static(rows as u32, width.div_ceil(chunk) as u32, 1);
        top_kernel::launch(
            &gpu.client,
            count,
            CubeDim::new_1d(UNITS as u32),
            arg(&from.logits),
            arg(&from.tokens),
            arg(&to.logits),
            arg(&to.tokens),
            width as u32,
            chunk as u32,
            top as u32,
            listed,
            gpu.has_planes(),
        );
    };
    pass(all, &chunked, (vocab, CHUNK), false);
    if chunks == 1 {
        return chunked;
    }
    let last = room(1);
    pass(&chunked, &last, (chunks * top, chunks * top), true);
    last
}

/// Decodes the row's candidates from the bytes that were read, without the empty ones.
pub(super) fn candidates(logits: &[u8], tokens: &[u8]) -> Vec<(u32, f32)> {
    let word = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let pairs = logits.chunks_exact(4).zip(tokens.chunks_exact(4));
    pairs
        .map(|(logit, token)| (word(token), f32::from_bits(word(logit))))
        .filter(|(token, _)| *token != NONE)
        .collect()
}
