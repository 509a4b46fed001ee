//! Attention over paged keys and values, prompts and single rows alike.
//!
//! A cube has a few query heads that share a key head, of a few rows of one sequence. It walks the
//! context in steps of [`STEP`] tokens counted from the sequence's first, keeps the softmax running,
//! and hides from each row what it must not see: a step that a row sees nothing of leaves its sums as
//! they are. So a row's result does not depend on the rows beside it.

use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use protocol::BLOCK_TOKENS;

use super::append::{HeadNorm, Heads};
use super::attend_parts::{add_values, finish, score, soften, stage};
use super::gpu::{Gpu, arg};
use super::step::{Frame, TILE_WORDS, Tiles};

pub(super) const UNITS: usize = 64;
/// Tokens of a step: two for each unit.
pub(super) const STEP: usize = 2 * UNITS;
/// Parts of a step whose largest scores are found side by side; planes, where there are such.
pub(super) const PARTS: usize = 16;
/// The most parts of a step whose values are added up side by side: a page each.
const SUMS: usize = STEP / BLOCK_TOKENS;
/// The score of a hidden token; no other is as low.
pub(super) const HIDDEN: f32 = -1.0e30;
/// Bytes of shared memory that queries and scores may take: what every adapter has, less the rest.
const SHARED_BYTES: usize = 15 << 10;

/// The compile-time options of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Plan {
    pub(super) heads: Heads,
    /// Query heads of a cube.
    pub(super) group: usize,
    /// Rows of a cube.
    pub(super) rows: usize,
    /// True if units of a plane find the largest score together. The result is the same.
    pub(super) planes: bool,
}

impl Plan {
    /// Queries of a cube: heads of rows.
    pub(super) fn queries(self) -> usize {
        self.group * self.rows
    }

    /// Words of a value.
    pub(super) fn words(self) -> usize {
        self.heads.head_dim / 2
    }

    /// Words of a value that one unit adds up.
    pub(super) fn words_each(self) -> usize {
        self.words().div_ceil(UNITS)
    }

    /// Parts of a step that are added up side by side.
    pub(super) fn parts(self) -> usize {
        let fit = (UNITS / self.words()).clamp(1, SUMS);
        1 << fit.ilog2()
    }

    pub(super) fn part_pages(self) -> usize {
        STEP / self.parts() / BLOCK_TOKENS
    }
}

#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(super) struct Reach {
    pub(super) scale: f32,
    pub(super) eps: f32,
    /// Tokens that a row sees, itself included.
    pub(super) window: u32,
}

/// The part of the work that a cube does.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Seat {
    pub(super) first_row: usize,
    pub(super) rows: usize,
    /// Position of the first row.
    pub(super) position: usize,
    /// Last token that a row sees.
    pub(super) last: usize,
    /// Start of the block table.
    pub(super) table: usize,
    /// First query head.
    pub(super) head: usize,
    pub(super) kv_head: usize,
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

/// Returns the query heads of a cube, and the most rows of a tile, for these heads.
fn sizes(heads: Heads) -> (usize, usize) {
    let queries = SHARED_BYTES / size_of::<f32>() / (heads.head_dim + STEP + PARTS + 2);
    let shared = heads.heads / heads.kv_heads;
    let most = queries.clamp(1, 8);
    let group = (1..=most.min(shared)).rev().find(|group| shared.is_multiple_of(*group));
    let group = group.unwrap_or(1);
    (group, (queries.min(16) / group).clamp(1, 4))
}

/// Returns the largest number of rows of a tile.
pub(super) fn tile_rows(heads: Heads) -> usize {
    sizes(heads).1
}

/// The arguments that a step's launches share.
pub(super) struct Attended<'a> {
    pub(super) qkv: &'a CubeTensor,
    /// Norm of the queries' heads.
    pub(super) norm: HeadNorm<'a>,
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
        arg(attended.norm.gain),
        arg(&frame.turns),
        arg(&tiles.words),
        arg(&frame.pages),
        arg(attended.kv),
        arg(attended.out),
        ReachLaunch::new(attended.scale, attended.norm.eps, window),
        Plan { heads, group, rows: tiles.rows, planes: gpu.has_planes() },
    );
}
