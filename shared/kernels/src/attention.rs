//! Attention over the paged context: prefill chunks and decode rows in one kernel.
//!
//! Work is cut into items of a few queries of one key head. An item goes through the context in tiles
//! of 64 tokens that begin at multiples of 64, with the online softmax of Milakov and Gimelshein:
//! what a query gets depends on its own position and context alone. In both products the lanes are
//! independent results (tokens, then elements of the head), so that no sum crosses lanes.

#![allow(
    clippy::needless_range_loop,
    reason = "plain loops over small arrays stay in registers; closures are compiled without the instructions"
)]

mod items;

use crate::kv::{Kv, PAGE_TOKENS};
use crate::lanes::{self, Kernel, LANES, Lanes};
use crate::matrix::Matrix;
use crate::memory::Shared;
use items::ItemRow;
pub use items::Span;
pub(crate) use items::{Heads, Item, Scratch, items};

/// Tokens of the context that are looked at together.
const TILE: usize = 64;
const TILE_PAGES: usize = TILE / PAGE_TOKENS;
/// Elements of a head that are summed together.
const COLUMNS: usize = 64;
/// Below every score that counts: the exponential of the difference to one is zero.
const LEAST: f32 = -1e30;

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
        let rows = self.item.queries * self.heads.group;
        self.scratch.reset(rows, self.heads.head_dim.next_multiple_of(LANES));
        self.rows();
        let (first_visible, end) = (self.scratch.rows[0].from, self.scratch.rows[rows - 1].end);
        for start in (first_visible / TILE * TILE..end).step_by(TILE) {
            // SAFETY: the instructions are promised by the caller.
            unsafe {
                if rows > L::ATTENTION_ROWS {
                    self.tile::<L, true>(rows, start);
                } else {
                    self.tile::<L, false>(rows, start);
                }
            }
        }
        self.finish();
    }
}

/// Calls a function with a constant number of rows, as many as a tile may have. Constants stand in
/// blocks, so that sizes beyond that are not compiled.
macro_rules! with_rows {
    ($count:expr, $self:ident . $function:ident :: < $lanes:ident, _, $wide:ident $(, $n:literal)? > ($($argument:expr),*)) => {
        match $count {
            1 => $self.$function::<$lanes, 1, $wide $(, $n)?>($($argument),*),
            2 if const { $lanes::ATTENTION_ROWS >= 2 } => $self.$function::<$lanes, 2, $wide $(, $n)?>($($argument),*),
            3 if const { $lanes::ATTENTION_ROWS >= 3 } => $self.$function::<$lanes, 3, $wide $(, $n)?>($($argument),*),
            4 if const { $lanes::ATTENTION_ROWS >= 4 } => $self.$function::<$lanes, 4, $wide $(, $n)?>($($argument),*),
            5 if const { $lanes::ATTENTION_ROWS >= 5 } => $self.$function::<$lanes, 5, $wide $(, $n)?>($($argument),*),
            6 if const { $lanes::ATTENTION_ROWS >= 6 } => $self.$function::<$lanes, 6, $wide $(, $n)?>($($argument),*),
            _ => {}
        }
    };
}

impl Attend<'_> {
    /// Works out the rows of the item.
    fn rows(&mut self) {
        let Heads { group, window, .. } = self.heads;
        self.scratch.rows.clear();
        for query in 0..self.item.queries {
            let end = self.span.position + self.item.first + query + 1;
            self.scratch.rows.extend((0..group).map(|head| ItemRow {
                row: self.span.first_row + self.item.first + query,
                head: self.item.kv_head * group + head,
                from: window.map_or(0, |window| end.saturating_sub(window)),
                end,
            }));
        }
    }

    /// Returns the values of the item's head in a page, keys or values, and a vector's length behind
    /// them.
    #[inline(always)]
    fn head_of_page(&self, page: usize, half: usize) -> &[u16] {
        let shape = self.kv.shape();
        // Behind the last page nothing is visible: any page will do.
        let page = self.pages[page.min(self.pages.len() - 1)] as usize;
        let start = shape.start(self.layer, page)
            + half * shape.half_values()
            + self.item.kv_head * shape.head_values();
        // A vector may run over the last value.
        &self.kv.data.as_padded_slice()[start..][..shape.head_values() + LANES]
    }

    /// Computes one tile of the context for all rows of the item; `WIDE` where enough rows share it
    /// that it pays to widen its keys and values once for all of them.
    ///
    /// # Safety
    /// The machine has the instructions of `L`.
    #[inline(always)]
    unsafe fn tile<L: Lanes, const WIDE: bool>(&mut self, rows: usize, start: usize) {
        let padded = self.heads.head_dim.next_multiple_of(LANES);
        // SAFETY: the instructions are promised by the caller.
        unsafe {
            if WIDE {
                self.widen_keys::<L>(start);
            }
            for first in (0..rows).step_by(L::ATTENTION_ROWS) {
                let count = L::ATTENTION_ROWS.min(rows - first);
                if self.scratch.rows[first + count - 1].end > start {
                    with_rows!(count, self.score::<L, _, WIDE>(first, start));
                }
            }
            self.weigh::<L>(rows, start);
            if WIDE {
                self.widen_values::<L>(start);
            }
            for first in (0..rows).step_by(L::ATTENTION_ROWS) {
                let count = L::ATTENTION_ROWS.min(rows - first);
                let end = self.scratch.rows[first + count - 1].end;
                if end <= start {
                    continue;
                }
                let tokens = (end - start).min(TILE);
                for column in (0..padded).step_by(COLUMNS) {
                    match (padded - column).min(COLUMNS) / LANES {
                        1 => with_rows!(
                            count,
                            self.mix::<L, _, WIDE, 1>(first, start, tokens, column)
                        ),
                        2 => with_rows!(
                            count,
                            self.mix::<L, _, WIDE, 2>(first, start, tokens, column)
                        ),
                        3 => with_rows!(
                            count,
                            self.mix::<L, _, WIDE, 3>(first, start, tokens, column)
                        ),
                        _ => with_rows!(
                            count,
                            self.mix::<L, _, WIDE, 4>(first, start, tokens, column)
                        ),
                    }
                }
            }
        }
    }

    /// # Safety
    /// The machine has the instructions of `L`.
    #[inline(always)]
    unsafe fn widen_keys<L: Lanes>(&mut self, start: usize) {
        let head_dim = self.heads.head_dim;
        for page in 0..TILE_PAGES {
            let keys = self.head_of_page(start / PAGE_TOKENS + page, 0).as_ptr();
            let out = self.scratch.widened.as_mut_slice()[page * PAGE_TOKENS..].as_mut_ptr();
            for element in 0..head_dim {
                // SAFETY: the instructions are promised by the caller; keys have sixteen tokens for
                // each element, and so have the widened ones of each page.
                unsafe {
                    let key = L::load_f16(keys.add(element * PAGE_TOKENS));
                    L::store(out.add(element * TILE), key);
                }
            }
        }
    }

    /// # Safety
    /// The machine has the instructions of `L`.
    #[inline(always)]
    unsafe fn widen_values<L: Lanes>(&mut self, start: usize) {
        let head_dim = self.heads.head_dim;
        let padded = head_dim.next_multiple_of(LANES);
        for page in 0..TILE_PAGES {
            let values = self.head_of_page(start / PAGE_TOKENS + page, 1).as_ptr();
            let out = &mut self.scratch.widened.as_mut_slice()[page * PAGE_TOKENS * padded..];
            let out = out[..PAGE_TOKENS * padded].as_mut_ptr();
            for token in 0..PAGE_TOKENS {
                for column in (0..padded).step_by(LANES) {
                    // SAFETY: as in `mix`.
                    unsafe {
                        let value = L::load_f16(values.add(token * head_dim + column));
                        L::store(out.add(token * padded + column), value);
                    }
                }
            }
        }
    }

    /// Multiplies `R` queries with the keys of a tile.
    ///
    /// # Safety
    /// The machine has the instructions of `L`.
    #[inline(always)]
    unsafe fn score<L: Lanes, const R: usize, const WIDE: bool>(
        &mut self,
        first: usize,
        start: usize,
    ) {
        let head_dim = self.heads.head_dim;
        let mut queries = [std::ptr::null::<f32>(); R];
        for row in 0..R {
            let ItemRow { row: query, head, .. } = self.scratch.rows[first + row];
            queries[row] = self.queries.row(query)[head * head_dim..][..head_dim].as_ptr();
        }
        let mut keys = [std::ptr::null::<u16>(); TILE_PAGES];
        let mut values = keys;
        for page in 0..TILE_PAGES {
            keys[page] = self.head_of_page(start / PAGE_TOKENS + page, 0).as_ptr();
            values[page] = self.head_of_page(start / PAGE_TOKENS + page, 1).as_ptr();
        }
        let widened = self.scratch.widened.as_slice()[..head_dim * TILE].as_ptr();
        let scores = self.scratch.scores[first..first + R].as_mut_ptr().cast::<f32>();
        // SAFETY: the instructions are promised by the caller; queries have `head_dim` elements,
        // keys sixteen tokens for each of them, widened or not, and there are `R` rows of scores.
        unsafe {
            let mut sums = [[L::splat(0.0); TILE_PAGES]; R];
            for element in 0..head_dim {
                let mut loaded = [L::splat(0.0); TILE_PAGES];
                for page in 0..TILE_PAGES {
                    loaded[page] = if WIDE {
                        L::load(widened.add(element * TILE + page * PAGE_TOKENS))
                    } else {
                        // The values of the tile are needed when the scores are there.
                        L::prefetch(values[page].wrapping_add(element * PAGE_TOKENS).cast());
                        L::load_f16(keys[page].add(element * PAGE_TOKENS))
                    };
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
                    L::store(scores.add(row * TILE + page * PAGE_TOKENS), sums[row][page]);
                }
            }
        }
    }

    /// Turns the scores of a tile into weights relative to each row's largest so far, and notes the
    /// factors by which earlier weights shrink.
    ///
    /// # Safety
    /// The machine has the instructions of `L`.
    #[inline(always)]
    unsafe fn weigh<L: Lanes>(&mut self, rows: usize, start: usize) {
        for row in 0..rows {
            self.hide(row, start);
        }
        let Scratch { scores, factors, largest, totals, .. } = &mut *self.scratch;
        // SAFETY: the instructions are promised by the caller; a tile has four vectors, and the
        // numbers kept for rows are padded to whole vectors.
        unsafe {
            // Keeps a difference finite where nothing was visible so far and nothing is now.
            let least = L::splat(LEAST);
            for (row, scores) in scores[..rows].iter().enumerate() {
                let at = scores.as_ptr();
                let mut most = L::max(L::load(at), L::load(at.add(LANES)));
                for vector in 2..TILE / LANES {
                    most = L::max(L::load(at.add(vector * LANES)), most);
                }
                factors[row] = L::largest(most);
            }
            for row in (0..rows).step_by(LANES) {
                let before = L::load(largest.as_ptr().add(row));
                let now = L::max(L::max(L::load(factors.as_ptr().add(row)), before), least);
                L::store(largest.as_mut_ptr().add(row), now);
                L::store(factors.as_mut_ptr().add(row), lanes::exp::<L>(L::sub(before, now)));
            }
            for (row, scores) in scores[..rows].iter_mut().enumerate() {
                let at = scores.as_mut_ptr();
                let most = L::splat(largest[row]);
                let mut sum = L::splat(0.0);
                for vector in 0..TILE / LANES {
                    let at = at.add(vector * LANES);
                    let weight = lanes::exp::<L>(L::sub(L::load(at), most));
                    L::store(at, weight);
                    sum = L::add(sum, weight);
                }
                totals[row] = totals[row] * factors[row] + L::sum(sum);
            }
        }
    }

    /// Removes the scores of tokens that a row does not see.
    #[inline(always)]
    fn hide(&mut self, row: usize, start: usize) {
        let ItemRow { from, end, .. } = self.scratch.rows[row];
        if from <= start && start + TILE <= end {
            return;
        }
        for (token, score) in (start..).zip(self.scratch.scores[row].iter_mut()) {
            if token < from || end <= token {
                *score = f32::NEG_INFINITY;
            }
        }
    }

    /// Adds the weighted values of a tile's first tokens to the sums, `N` vectors from `column` on.
    ///
    /// # Safety
    /// The machine has the instructions of `L`.
    #[inline(always)]
    unsafe fn mix<L: Lanes, const R: usize, const WIDE: bool, const N: usize>(
        &mut self,
        first: usize,
        start: usize,
        tokens: usize,
        column: usize,
    ) {
        let head_dim = self.heads.head_dim;
        let padded = head_dim.next_multiple_of(LANES);
        let mut values = [std::ptr::null::<u16>(); TILE_PAGES];
        let mut next_keys = values;
        for page in 0..TILE_PAGES {
            let index = start / PAGE_TOKENS + page;
            values[page] = self.head_of_page(index, 1).as_ptr();
            next_keys[page] = self.head_of_page(index + TILE_PAGES, 0).as_ptr();
        }
        let widened = self.scratch.widened.as_slice()[..TILE * padded].as_ptr();
        let scores = self.scratch.scores[first..first + R].as_ptr().cast::<f32>();
        let factors = &self.scratch.factors[first..first + R];
        let sums = &mut self.scratch.sums[first * padded..][..R * padded];
        // SAFETY: the instructions are promised by the caller; there are `R` rows of scores, and of
        // sums in whole vectors; widened values are padded. Others have `head_dim` elements for each
        // token, and vectors that run over the last one read the next page, or the line behind the
        // pool, into lanes that are not read.
        unsafe {
            let sums = sums.as_mut_ptr().add(column);
            let mut mixed = [[L::splat(0.0); N]; R];
            for row in 0..R {
                let factor = L::splat(factors[row]);
                for n in 0..N {
                    mixed[row][n] = L::mul(L::load(sums.add(row * padded + n * LANES)), factor);
                }
            }
            for token in 0..tokens {
                let (page, place) = (token / PAGE_TOKENS, token % PAGE_TOKENS);
                if !WIDE && column == 0 {
                    // The next tile's keys: as many lines for each token as hold their share.
                    let lines = head_dim.div_ceil(2 * PAGE_TOKENS);
                    for line in place * lines..(place + 1) * lines {
                        L::prefetch(next_keys[page].wrapping_add(line * 32).cast());
                    }
                }
                let mut loaded = [L::splat(0.0); N];
                for n in 0..N {
                    let at = column + n * LANES;
                    loaded[n] = if WIDE {
                        L::load(widened.add(token * padded + at))
                    } else {
                        L::load_f16(values[page].add(place * head_dim + at))
                    };
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
        for row in 0..self.scratch.totals.len() {
            let ItemRow { row: query, head, .. } = self.scratch.rows[row];
            let total = self.scratch.totals[row];
            let sums = &self.scratch.sums[row * padded..][..head_dim];
            // SAFETY: these heads of these rows belong to this item.
            let out = unsafe { self.out.part(query * self.out_stride + head * head_dim, head_dim) };
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = sum / total;
            }
        }
    }
}
