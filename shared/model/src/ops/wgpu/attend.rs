//! Attention over paged keys and values, prompts and single rows alike.
//!
//! A cube has a few query heads that share a key head, of a few rows of one sequence. It walks the
//! context in steps of [`STEP`] tokens counted from the sequence's first, keeps the softmax running,
//! and hides from each row what it must not see: a step that a row sees nothing of leaves its sums as
//! they are. So a row's result does not depend on the rows beside it.

use super::append::{Heads, Turn, turned};
use super::decode::half_to_single;
use super::gpu::{Gpu, arg};
use super::step::{Frame, TILE_WORDS, Tiles};
use crate::BLOCK_TOKENS;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

const UNITS: usize = 64;
/// Tokens of a step: two for each unit.
const STEP: usize = 2 * UNITS;
/// Parts of a step whose largest scores are found side by side; planes, where there are such.
const PARTS: usize = 16;
/// The most parts of a step whose values are added up side by side: a page each.
const SUMS: usize = STEP / BLOCK_TOKENS;
/// The score of a hidden token; no other is as low.
const HIDDEN: f32 = -1.0e30;
/// Bytes of shared memory that queries and scores may take: what every adapter has, less the rest.
const SHARED_BYTES: usize = 15 << 10;

/// How a kernel is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Plan {
    heads: Heads,
    /// Query heads of a cube.
    group: usize,
    /// Rows of a cube.
    rows: usize,
    /// Whether units of a plane find the largest score together. It is the same either way.
    planes: bool,
}

impl Plan {
    /// Queries of a cube: heads of rows.
    fn queries(self) -> usize {
        self.group * self.rows
    }

    /// Words of a value.
    fn words(self) -> usize {
        self.heads.head_dim / 2
    }

    /// Words of a value that one unit adds up.
    fn words_each(self) -> usize {
        self.words().div_ceil(UNITS)
    }

    /// Parts of a step that are added up side by side.
    fn parts(self) -> usize {
        let fit = (UNITS / self.words()).clamp(1, SUMS);
        1 << fit.ilog2()
    }

    fn part_pages(self) -> usize {
        STEP / self.parts() / BLOCK_TOKENS
    }
}

#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Reach {
    scale: f32,
    eps: f32,
    /// Tokens that a row sees, itself included.
    window: u32,
}

/// Where a cube works.
#[derive(CubeType, Clone, Copy)]
struct Seat {
    first_row: usize,
    rows: usize,
    /// Position of the first row.
    position: usize,
    /// Last token that a row sees.
    last: usize,
    /// Start of the block table.
    table: usize,
    /// First query head.
    head: usize,
    kv_head: usize,
}

#[cube(launch)]
#[allow(clippy::too_many_arguments, reason = "every buffer of a kernel is an argument")]
fn attend_kernel(
    qkv: &[f32],
    gain: &[f32],
    turns: &[f32],
    tiles: &[u32],
    pages: &[u32],
    kv: &[u32],
    out: &mut [f32],
    reach: Reach,
    #[comptime] plan: Plan,
) {
    let tile = CUBE_POS_X as usize * TILE_WORDS;
    let head = CUBE_POS_Y as usize * plan.group;
    let seat = Seat {
        first_row: tiles[tile] as usize,
        rows: tiles[tile + 1] as usize,
        position: tiles[tile + 2] as usize,
        last: (tiles[tile + 2] + tiles[tile + 1] - 1) as usize,
        table: tiles[tile + 3] as usize,
        head,
        kv_head: head / comptime!(plan.heads.heads / plan.heads.kv_heads),
    };
    let mut queries = Shared::<[f32]>::new_slice(comptime!(plan.queries() * plan.heads.head_dim));
    let mut scores = Shared::<[f32]>::new_slice(comptime!(plan.queries() * STEP));
    let mut highest = Shared::<[f32]>::new_slice(comptime!(plan.queries() * PARTS));
    let mut best = Shared::<[f32]>::new_slice(plan.queries());
    let mut fade = Shared::<[f32]>::new_slice(plan.queries());
    stage(qkv, gain, turns, &mut queries, &seat, reach.eps, plan);
    if (UNIT_POS as usize) < plan.queries() {
        best[UNIT_POS as usize] = HIDDEN;
        // A cube may have fewer planes than parts.
        for part in 0..PARTS {
            highest[UNIT_POS as usize * PARTS + part] = HIDDEN;
        }
    }
    let mut sums = Array::<f32>::new(comptime!(plan.queries() * plan.words_each() * 2));
    let mut totals = Array::<f32>::new(plan.queries());
    let window = reach.window as usize;
    let mut start = 0usize;
    if seat.position >= window {
        start = seat.position + 1 - window;
    }
    for step in start / STEP..seat.last / STEP + 1 {
        sync_cube();
        score(pages, kv, &queries, &mut scores, &mut highest, step * STEP, &seat, &reach, plan);
        sync_cube();
        soften(&mut scores, &mut highest, &mut best, &mut fade, plan);
        sync_cube();
        add_values(pages, kv, &scores, &fade, &mut sums, &mut totals, step * STEP, &seat, plan);
    }
    finish(out, &mut scores, &sums, &totals, &seat, plan);
}

/// Puts the cube's queries, normed and turned, into shared memory.
#[cube]
#[allow(clippy::too_many_arguments, reason = "a part of the kernel")]
fn stage(
    qkv: &[f32],
    gain: &[f32],
    turns: &[f32],
    queries: &mut Shared<[f32]>,
    seat: &Seat,
    eps: f32,
    #[comptime] plan: Plan,
) {
    let half = comptime!(plan.heads.head_dim / 2);
    let all = comptime!(plan.queries() * half);
    for step in 0..comptime!(all.div_ceil(UNITS)) {
        let at = step * UNITS + UNIT_POS as usize;
        if at < all {
            let (query, index) = (at / half, at % half);
            // Rows that a tile does not have repeat its last.
            let row = seat.first_row + min(query / plan.group, seat.rows - 1);
            let head = seat.head + query % plan.group;
            let base = row * comptime!(plan.heads.width()) + head * plan.heads.head_dim;
            let pair = turned(qkv, gain, turns, &Turn { row, base, index, eps }, plan.heads);
            queries[query * plan.heads.head_dim + index] = pair.low;
            queries[query * plan.heads.head_dim + half + index] = pair.high;
        }
    }
}

/// Scores of two tokens a unit, against all queries.
#[cube]
#[allow(clippy::too_many_arguments, reason = "a part of the kernel")]
fn score(
    pages: &[u32],
    kv: &[u32],
    queries: &Shared<[f32]>,
    scores: &mut Shared<[f32]>,
    highest: &mut Shared<[f32]>,
    base: usize,
    seat: &Seat,
    reach: &Reach,
    #[comptime] plan: Plan,
) {
    let dim = comptime!(plan.heads.head_dim);
    let within = 2 * UNIT_POS as usize;
    let token = base + within;
    let mut dims = 0usize;
    let mut at = 0usize;
    if token <= seat.last {
        dims = dim.runtime();
        let page = pages[seat.table + token / BLOCK_TOKENS] as usize;
        at = page * comptime!(2 * plan.heads.half_words())
            + seat.kv_head * comptime!(dim * BLOCK_TOKENS / 2)
            + token % BLOCK_TOKENS / 2;
    }
    let mut first = Array::<f32>::new(plan.queries());
    let mut second = Array::<f32>::new(plan.queries());
    #[unroll]
    for query in 0..plan.queries() {
        first[query] = 0.0;
        second[query] = 0.0;
    }
    for index in 0..dims {
        let word = kv[at + index * comptime!(BLOCK_TOKENS / 2)];
        let (low, high) = (half_to_single(word & 0xffff), half_to_single(word >> 16));
        #[unroll]
        for query in 0..plan.queries() {
            let value = queries[comptime!(query * dim) + index];
            first[query] = fma(value, low, first[query]);
            second[query] = fma(value, high, second[query]);
        }
    }
    #[unroll]
    for query in 0..plan.queries() {
        let own = seat.position + comptime!(query / plan.group);
        let window = reach.window as usize;
        let sees = token <= own && own - token < window;
        let next = token + 1;
        let sees_next = next <= own && own - next < window;
        let to = comptime!(query * STEP) + within;
        let low = select(sees, first[query] * reach.scale, HIDDEN);
        let high = select(sees_next, second[query] * reach.scale, HIDDEN);
        scores[to] = low;
        scores[to + 1] = high;
        if comptime!(plan.planes) {
            let largest = plane_max(max(low, high));
            if UNIT_POS_PLANE == 0 {
                highest[comptime!(query * PARTS) + PLANE_POS as usize] = largest;
            }
        }
    }
}

/// Turns scores into weights relative to the best so far; `fade` is what earlier weights lose.
#[cube]
fn soften(
    scores: &mut Shared<[f32]>,
    highest: &mut Shared<[f32]>,
    best: &mut Shared<[f32]>,
    fade: &mut Shared<[f32]>,
    #[comptime] plan: Plan,
) {
    let unit = UNIT_POS as usize;
    if comptime!(!plan.planes) {
        let all = comptime!(plan.queries() * PARTS);
        for step in 0..comptime!(all.div_ceil(UNITS)) {
            let part = step * UNITS + unit;
            if part < all {
                let from = part * comptime!(STEP / PARTS);
                let mut high = scores[from];
                for index in 1..comptime!(STEP / PARTS) {
                    high = max(high, scores[from + index]);
                }
                highest[part] = high;
            }
        }
        sync_cube();
    }
    if unit < plan.queries() {
        let before = best[unit];
        let mut high = before;
        for part in 0..PARTS {
            high = max(high, highest[unit * PARTS + part]);
        }
        fade[unit] = (before - high).exp();
        best[unit] = high;
    }
    sync_cube();
    for step in 0..comptime!(plan.queries() * STEP / UNITS) {
        let at = step * UNITS + unit;
        let score = scores[at];
        let weight = (score - best[at / STEP]).exp();
        scores[at] = select(score > HIDDEN, weight, 0.0);
    }
}

/// Adds the weighted values of a part of the step.
#[cube]
#[allow(clippy::too_many_arguments, reason = "a part of the kernel")]
fn add_values(
    pages: &[u32],
    kv: &[u32],
    scores: &Shared<[f32]>,
    fade: &Shared<[f32]>,
    sums: &mut Array<f32>,
    totals: &mut Array<f32>,
    base: usize,
    seat: &Seat,
    #[comptime] plan: Plan,
) {
    let each = comptime!(plan.words_each());
    let words = comptime!(plan.words());
    #[unroll]
    for query in 0..plan.queries() {
        let fade = fade[query];
        totals[query] *= fade;
        #[unroll]
        for word in 0..each {
            sums[comptime!((query * each + word) * 2)] *= fade;
            sums[comptime!((query * each + word) * 2 + 1)] *= fade;
        }
    }
    let part = UNIT_POS as usize / words;
    let lane = UNIT_POS as usize % words;
    let idle = comptime!(each == 1) && part >= comptime!(plan.parts());
    for page in 0..comptime!(plan.part_pages()) {
        let within = (part * comptime!(plan.part_pages()) + page) * BLOCK_TOKENS;
        let token = base + within;
        let mut count = 0usize;
        let mut from = 0usize;
        if !idle && token <= seat.last {
            count = min(seat.last + 1 - token, BLOCK_TOKENS);
            let page = pages[seat.table + token / BLOCK_TOKENS] as usize;
            from = page * comptime!(2 * plan.heads.half_words())
                + comptime!(plan.heads.half_words())
                + seat.kv_head * comptime!(BLOCK_TOKENS * words)
                + lane;
        }
        for index in 0..count {
            #[unroll]
            for query in 0..plan.queries() {
                totals[query] += scores[comptime!(query * STEP) + within + index];
            }
            #[unroll]
            for word in 0..each {
                let value = kv[from + index * words + comptime!(word * UNITS)];
                let (low, high) = (half_to_single(value & 0xffff), half_to_single(value >> 16));
                #[unroll]
                for query in 0..plan.queries() {
                    let weight = scores[comptime!(query * STEP) + within + index];
                    let at = comptime!((query * each + word) * 2);
                    sums[at] = fma(weight, low, sums[at]);
                    sums[at + 1] = fma(weight, high, sums[at + 1]);
                }
            }
        }
    }
}

/// Adds up the parts, and writes what the rows attended to.
#[cube]
fn finish(
    out: &mut [f32],
    scores: &mut Shared<[f32]>,
    sums: &Array<f32>,
    totals: &Array<f32>,
    seat: &Seat,
    #[comptime] plan: Plan,
) {
    let unit = UNIT_POS as usize;
    let each = comptime!(plan.words_each());
    let words = comptime!(plan.words());
    #[unroll]
    for query in 0..plan.queries() {
        #[unroll]
        for word in 0..each {
            let mut low = sums[comptime!((query * each + word) * 2)];
            let mut high = sums[comptime!((query * each + word) * 2 + 1)];
            let mut total = totals[query];
            if comptime!(plan.parts() > 1) {
                sync_cube();
                scores[unit] = low;
                sync_cube();
                low = add_parts(scores, plan);
                sync_cube();
                scores[unit] = high;
                sync_cube();
                high = add_parts(scores, plan);
                sync_cube();
                scores[unit] = total;
                sync_cube();
                total = add_parts(scores, plan);
            }
            let lane = unit + comptime!(word * UNITS);
            if lane < words && comptime!(query / plan.group) < seat.rows {
                let row = seat.first_row + comptime!(query / plan.group);
                let head = seat.head + comptime!(query % plan.group);
                let at = (row * plan.heads.heads + head) * plan.heads.head_dim + 2 * lane;
                out[at] = low / total;
                out[at + 1] = high / total;
            }
        }
    }
}

/// What the units of a word hold, in the order of their parts.
#[cube]
fn add_parts(scores: &mut Shared<[f32]>, #[comptime] plan: Plan) -> f32 {
    let lane = UNIT_POS as usize % comptime!(plan.words());
    let mut sum = scores[lane];
    #[unroll]
    for part in 1..comptime!(plan.parts()) {
        sum += scores[lane + comptime!(part * plan.words())];
    }
    sum
}

/// Query heads of a cube, and the most rows of a tile, for these heads.
fn sizes(heads: Heads) -> (usize, usize) {
    let queries = SHARED_BYTES / size_of::<f32>() / (heads.head_dim + STEP + PARTS + 2);
    let shared = heads.heads / heads.kv_heads;
    let most = queries.clamp(1, 8);
    let group = (1..=most.min(shared)).rev().find(|group| shared.is_multiple_of(*group));
    let group = group.unwrap_or(1);
    (group, (queries.min(16) / group).clamp(1, 4))
}

/// The most rows of a tile.
pub(super) fn tile_rows(heads: Heads) -> usize {
    sizes(heads).1
}

/// The arguments that a step's launches share.
pub(super) struct Attended<'a> {
    pub(super) qkv: &'a CubeTensor,
    /// Norm of the queries' heads, and its epsilon.
    pub(super) norm: (&'a CubeTensor, f32),
    pub(super) kv: &'a CubeTensor,
    pub(super) out: &'a CubeTensor,
    pub(super) scale: f32,
    pub(super) window: Option<usize>,
}

pub(super) fn launch(gpu: &Gpu, frame: &Frame, tiles: &Tiles, attended: &Attended, heads: Heads) {
    let (group, _) = sizes(heads);
    let window = attended.window.map_or(u32::MAX, |window| window as u32);
    attend_kernel::launch(
        &gpu.client,
        CubeCount::Static(tiles.count as u32, (heads.heads / group) as u32, 1),
        CubeDim::new_1d(UNITS as u32),
        arg(attended.qkv),
        arg(attended.norm.0),
        arg(&frame.turns),
        arg(&tiles.words),
        arg(&frame.pages),
        arg(attended.kv),
        arg(attended.out),
        ReachLaunch::new(attended.scale, attended.norm.1, window),
        Plan { heads, group, rows: tiles.rows, planes: gpu.has_planes() },
    );
}
