//! Attention over the paged context: prefill chunks and decode rows in one kernel.
//!
//! Work is cut into items of a few queries of one key head. An item goes through the context in tiles
//! of 64 tokens that begin at multiples of 64, with the online softmax of Milakov and Gimelshein:
//! what a query gets depends on its own position and context alone. In both products the lanes are
//! independent results (tokens, then elements of the head), so that no sum crosses lanes.

use crate::isa::Kernel;
use crate::kv::{Kv, PAGE_TOKENS};
use crate::lanes::{self, LANES, Lanes};
use crate::matrix::Matrix;
use crate::memory::Shared;

/// Tokens of the context that are looked at together.
const TILE: usize = 64;
const TILE_PAGES: usize = TILE / PAGE_TOKENS;
/// Elements of a head that are summed together.
const COLUMNS: usize = 64;
/// Query rows of an item: enough to read keys and values seldom, few enough to stay in the first
/// cache.
const ITEM_ROWS: usize = 48;
/// Most rows of the innermost loops.
const ROWS_MAX: usize = 6;

/// One sequence's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its first row.
    pub first_row: usize,
    /// How many rows.
    pub rows: usize,
    /// Position of the first row.
    pub position: usize,
    /// Where its pages begin in the step's list of pages: token `t` lies in page `t / 16` from there.
    pub first_page: usize,
}

impl Span {
    /// The end of its pages in the list.
    pub(crate) fn end_page(&self) -> usize {
        self.first_page + (self.position + self.rows).div_ceil(PAGE_TOKENS)
    }
}

/// A few queries of one key head of one sequence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item {
    span: usize,
    kv_head: usize,
    /// First query within the span.
    first: usize,
    queries: usize,
}

impl Item {
    pub(crate) fn span(&self) -> usize {
        self.span
    }
}

/// How heads are laid out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    /// Query heads for each key head.
    pub(crate) group: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) window: Option<usize>,
}

/// Cuts the rows of `spans` into items, the ones with most context first.
pub(crate) fn items(spans: &[Span], heads: Heads, out: &mut Vec<Item>) {
    out.clear();
    let most = (ITEM_ROWS / heads.group).max(1);
    for (span, rows) in spans.iter().enumerate() {
        for kv_head in 0..heads.kv_heads {
            for first in (0..rows.rows).step_by(most) {
                let queries = most.min(rows.rows - first);
                out.push(Item { span, kv_head, first, queries });
            }
        }
    }
    out.sort_unstable_by_key(|item| {
        let end = spans[item.span].position + item.first + item.queries;
        (std::cmp::Reverse(end * item.queries), item.span, item.kv_head, item.first)
    });
}

/// What one thread needs while it computes an item.
pub(crate) struct Scratch {
    scores: [[f32; TILE]; ROWS_MAX],
    /// Largest score so far, sum of weights so far: per row.
    running: Vec<(f32, f32)>,
    /// Weighted sum of values so far, `[rows][padded head_dim]`.
    sums: Vec<f32>,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self { scores: [[0.0; TILE]; ROWS_MAX], running: Vec::new(), sums: Vec::new() }
    }
}

/// The attention of one item.
pub(crate) struct Attend<'a> {
    pub(crate) heads: Heads,
    pub(crate) layer: usize,
    pub(crate) kv: &'a Kv,
    pub(crate) span: Span,
    /// The sequence's pages.
    pub(crate) pages: &'a [u32],
    pub(crate) item: Item,
    /// Rotated and scaled, `[rows, heads head_dim]`.
    pub(crate) queries: &'a Matrix,
    pub(crate) out: &'a Shared<'a, f32>,
    pub(crate) out_stride: usize,
    pub(crate) scratch: &'a mut Scratch,
}

impl Kernel for Attend<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(mut self) {
        let Heads { group, head_dim, .. } = self.heads;
        let rows = self.item.queries * group;
        let padded = head_dim.next_multiple_of(LANES);
        self.scratch.running.clear();
        self.scratch.running.resize(rows, (f32::NEG_INFINITY, 0.0));
        self.scratch.sums.clear();
        self.scratch.sums.resize(rows * padded, 0.0);
        let first_visible = self.visible(0).0;
        let end = self.visible(rows - 1).1;
        for start in (first_visible / TILE * TILE..end).step_by(TILE) {
            for first in (0..rows).step_by(L::ATTENTION_ROWS) {
                let count = L::ATTENTION_ROWS.min(rows - first);
                // SAFETY: the instructions are promised by the caller.
                unsafe {
                    match count {
                        1 => self.tile::<L, 1>(first, start),
                        2 if L::ATTENTION_ROWS >= 2 => self.tile::<L, 2>(first, start),
                        3 if L::ATTENTION_ROWS >= 3 => self.tile::<L, 3>(first, start),
                        4 if L::ATTENTION_ROWS >= 4 => self.tile::<L, 4>(first, start),
                        5 if L::ATTENTION_ROWS >= 5 => self.tile::<L, 5>(first, start),
                        6 if L::ATTENTION_ROWS >= 6 => self.tile::<L, 6>(first, start),
                        _ => {}
                    }
                }
            }
        }
        self.finish();
    }
}

impl Attend<'_> {
    /// Row of the step and query head of a row of the item.
    #[inline(always)]
    fn place(&self, row: usize) -> (usize, usize) {
        let group = self.heads.group;
        let query = self.span.first_row + self.item.first + row / group;
        (query, self.item.kv_head * group + row % group)
    }

    /// The tokens that a row of the item sees.
    #[inline(always)]
    fn visible(&self, row: usize) -> (usize, usize) {
        let end = self.span.position + self.item.first + row / self.heads.group + 1;
        (self.heads.window.map_or(0, |window| end.saturating_sub(window)), end)
    }

    /// Values of the item's head in the page of a token, keys or values.
    #[inline(always)]
    fn head_of_page(&self, page: usize, half: usize) -> &[u16] {
        let shape = self.kv.shape();
        // Behind the last page nothing is visible: any page will do.
        let page = self.pages[page.min(self.pages.len() - 1)] as usize;
        let start = shape.start(self.layer, page)
            + half * shape.half_values()
            + self.item.kv_head * shape.head_values();
        &self.kv.data.as_slice()[start..][..shape.head_values()]
    }

    /// # Safety
    /// The machine has the instructions of `L`.
    #[inline(always)]
    unsafe fn tile<L: Lanes, const R: usize>(&mut self, first: usize, start: usize) {
        let (_, last_end) = self.visible(first + R - 1);
        if last_end <= start || self.visible(first).0 >= start + TILE {
            let is_behind = (first..first + R).all(|row| self.visible(row).0 >= start + TILE);
            if last_end <= start || is_behind {
                return;
            }
        }
        // SAFETY: the instructions are promised by the caller.
        unsafe {
            self.score::<L, R>(first, start);
            let mut factors = [1.0; R];
            for row in 0..R {
                factors[row] = self.weigh::<L>(first, row, start);
            }
            let tokens = (last_end - start).min(TILE);
            let padded = self.heads.head_dim.next_multiple_of(LANES);
            for column in (0..padded).step_by(COLUMNS) {
                match (padded - column).min(COLUMNS) / LANES {
                    1 => self.mix::<L, R, 1>(first, (start, tokens), column, factors),
                    2 => self.mix::<L, R, 2>(first, (start, tokens), column, factors),
                    3 => self.mix::<L, R, 3>(first, (start, tokens), column, factors),
                    _ => self.mix::<L, R, 4>(first, (start, tokens), column, factors),
                }
            }
        }
    }

    /// Products of `R` queries with the keys of a tile.
    ///
    /// # Safety
    /// The machine has the instructions of `L`.
    #[inline(always)]
    unsafe fn score<L: Lanes, const R: usize>(&mut self, first: usize, start: usize) {
        let head_dim = self.heads.head_dim;
        let mut queries = [std::ptr::null::<f32>(); R];
        for row in 0..R {
            let (query, head) = self.place(first + row);
            queries[row] = self.queries.row(query)[head * head_dim..][..head_dim].as_ptr();
        }
        let mut keys = [std::ptr::null::<u16>(); TILE_PAGES];
        for page in 0..TILE_PAGES {
            keys[page] = self.head_of_page(start / PAGE_TOKENS + page, 0).as_ptr();
        }
        // SAFETY: the instructions are promised by the caller; queries have `head_dim` elements,
        // keys sixteen tokens for each of them.
        unsafe {
            let mut sums = [[L::splat(0.0); TILE_PAGES]; R];
            for element in 0..head_dim {
                let mut loaded = [L::splat(0.0); TILE_PAGES];
                for page in 0..TILE_PAGES {
                    loaded[page] = L::load_f16(keys[page].add(element * PAGE_TOKENS));
                }
                for row in 0..R {
                    let query = L::splat(*queries[row].add(element));
                    for page in 0..TILE_PAGES {
                        sums[row][page] = L::fma(loaded[page], query, sums[row][page]);
                    }
                }
            }
            for row in 0..R {
                for page in 0..TILE_PAGES {
                    let to = self.scratch.scores[row].as_mut_ptr().add(page * PAGE_TOKENS);
                    L::store(to, sums[row][page]);
                }
            }
        }
    }

    /// Turns the scores of one row into weights relative to the largest so far; gives the factor
    /// by which earlier weights shrink.
    ///
    /// # Safety
    /// The machine has the instructions of `L`.
    #[inline(always)]
    unsafe fn weigh<L: Lanes>(&mut self, first: usize, row: usize, start: usize) -> f32 {
        let (from, end) = self.visible(first + row);
        let scores = &mut self.scratch.scores[row];
        if start < from || end < start + TILE {
            for (token, score) in (start..).zip(scores.iter_mut()) {
                if token < from || end <= token {
                    *score = f32::NEG_INFINITY;
                }
            }
        }
        let (largest, total) = &mut self.scratch.running[first + row];
        // SAFETY: the instructions are promised by the caller; a tile has four vectors.
        unsafe {
            let at = scores.as_mut_ptr();
            let mut most = L::load(at);
            for vector in 1..TILE / LANES {
                most = L::max(L::load(at.add(vector * LANES)), most);
            }
            let most = L::largest(most);
            if most == f32::NEG_INFINITY {
                scores.fill(0.0);
                return 1.0;
            }
            let new = if most > *largest { most } else { *largest };
            let factor = lanes::to_array::<L>(lanes::exp::<L>(L::splat(*largest - new)))[0];
            let mut sum = L::splat(0.0);
            for vector in 0..TILE / LANES {
                let at = at.add(vector * LANES);
                let weight = lanes::exp::<L>(L::sub(L::load(at), L::splat(new)));
                L::store(at, weight);
                sum = L::add(sum, weight);
            }
            *largest = new;
            *total = *total * factor + lanes::sum::<L>(sum);
            factor
        }
    }

    /// Adds the weighted values of a tile's first tokens to the sums, `N` vectors from `column` on.
    ///
    /// # Safety
    /// The machine has the instructions of `L`.
    #[inline(always)]
    unsafe fn mix<L: Lanes, const R: usize, const N: usize>(
        &mut self,
        first: usize,
        (start, tokens): (usize, usize),
        column: usize,
        factors: [f32; R],
    ) {
        let head_dim = self.heads.head_dim;
        let padded = head_dim.next_multiple_of(LANES);
        let mut values = [std::ptr::null::<u16>(); TILE_PAGES];
        for page in 0..TILE_PAGES {
            values[page] = self.head_of_page(start / PAGE_TOKENS + page, 1).as_ptr();
        }
        let sums = &mut self.scratch.sums[first * padded..][..R * padded];
        // SAFETY: the instructions are promised by the caller; sums have `R` rows of whole vectors.
        // Values have `head_dim` elements for each token, and vectors that run over the last one
        // read the next page, or the line behind the pool, into lanes that nobody looks at.
        unsafe {
            let sums = sums.as_mut_ptr().add(column);
            let mut mixed = [[L::splat(0.0); N]; R];
            for row in 0..R {
                let factor = L::splat(factors[row]);
                for n in 0..N {
                    mixed[row][n] = L::mul(L::load(sums.add(row * padded + n * LANES)), factor);
                }
            }
            let scores = self.scratch.scores.as_ptr().cast::<f32>();
            for token in 0..tokens {
                let page = values[token / PAGE_TOKENS];
                let from = page.add(token % PAGE_TOKENS * head_dim + column);
                let mut loaded = [L::splat(0.0); N];
                for n in 0..N {
                    loaded[n] = L::load_f16(from.add(n * LANES));
                }
                for row in 0..R {
                    let weight = L::splat(*scores.add(row * TILE + token));
                    for n in 0..N {
                        mixed[row][n] = L::fma(loaded[n], weight, mixed[row][n]);
                    }
                }
            }
            for row in 0..R {
                for n in 0..N {
                    L::store(sums.add(row * padded + n * LANES), mixed[row][n]);
                }
            }
        }
    }

    /// Divides the sums by the weights' total.
    #[inline(always)]
    fn finish(&mut self) {
        let head_dim = self.heads.head_dim;
        let padded = head_dim.next_multiple_of(LANES);
        for row in 0..self.scratch.running.len() {
            let (query, head) = self.place(row);
            let total = self.scratch.running[row].1;
            let sums = &self.scratch.sums[row * padded..][..head_dim];
            // SAFETY: these heads of these rows belong to this item.
            let out = unsafe { self.out.part(query * self.out_stride + head * head_dim, head_dim) };
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = sum / total;
            }
        }
    }
}
