//! The parts of attention's kernel: queries, scores, weights, values, and what comes of them.

use cubecl::prelude::*;
use protocol::BLOCK_TOKENS;

use super::append::{Turn, turned};
use super::attend::{HIDDEN, PARTS, Plan, Reach, STEP, Seat, UNITS};
use super::decode::half_to_single;

/// Puts the cube's queries, normed and turned, into shared memory.
#[cube]
#[allow(clippy::too_many_arguments, reason = "a part of the kernel")]
pub(super) fn stage(
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
pub(super) fn score(
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
pub(super) fn soften(
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
pub(super) fn add_values(
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
#[allow(clippy::too_many_arguments, reason = "a part of the kernel")]
pub(super) fn finish(
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

/// Adds up the values of a word's units, in the order of their parts.
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
