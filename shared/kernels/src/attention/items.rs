//! The pieces that attention is cut into, and what a thread keeps while it computes one.

use super::{LEAST, TILE};
use crate::kv::PAGE_TOKENS;
use crate::lanes::LANES;
use crate::memory::Aligned;

/// Query rows of an item: enough to read keys and values seldom, few enough to stay in the first
/// cache.
const ITEM_ROWS: usize = 48;

/// One sequence's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its first row.
    pub first_row: usize,
    /// Number of rows.
    pub rows: usize,
    /// Position of the first row.
    pub position: usize,
    /// Start of its pages in the step's list of pages: token `t` lies in page `t / 16` from there.
    pub first_page: usize,
}

impl Span {
    /// Returns the end of its pages in the list.
    pub(crate) fn end_page(&self) -> usize {
        self.first_page + (self.position + self.rows).div_ceil(PAGE_TOKENS)
    }
}

/// A few queries of one key head of one sequence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item {
    span: usize,
    pub(super) kv_head: usize,
    /// First query within the span.
    pub(super) first: usize,
    pub(super) queries: usize,
}

impl Item {
    pub(crate) fn span(&self) -> usize {
        self.span
    }
}

/// The layout of heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heads {
    /// Query heads for each key head.
    pub(crate) group: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) window: Option<usize>,
}

/// Returns the queries of an item when a key head serves `group` query heads.
fn most_queries(group: usize) -> usize {
    (ITEM_ROWS / group).max(1)
}

/// Cuts the rows of `spans` into items, the ones with most context first.
pub(crate) fn items(spans: &[Span], heads: Heads, out: &mut Vec<Item>) {
    out.clear();
    let most = most_queries(heads.group);
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

/// One query of one head.
#[derive(Clone, Copy, Debug)]
pub(super) struct ItemRow {
    /// Row of the step.
    pub(super) row: usize,
    /// Query head.
    pub(super) head: usize,
    /// The tokens that it sees: from here on
    pub(super) from: usize,
    /// and up to here.
    pub(super) end: usize,
}

/// The memory that one thread needs while it computes an item.
pub(crate) struct Scratch {
    pub(super) rows: Vec<ItemRow>,
    /// Of each row: scores of the tile, then weights.
    pub(super) scores: Vec<[f32; TILE]>,
    /// Of each row: by how much earlier weights shrink.
    pub(super) factors: Vec<f32>,
    /// Of each row: the largest score so far, or [`LEAST`].
    pub(super) largest: Vec<f32>,
    /// Of each row: sum of weights so far.
    pub(super) totals: Vec<f32>,
    /// Weighted sum of values so far, `[rows][padded head_dim]`.
    pub(super) sums: Vec<f32>,
    /// Keys `[head_dim][64]` or values `[64][padded head_dim]` of a tile in f32, where enough rows
    /// share them.
    pub(super) widened: Aligned<f32>,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self {
            rows: Vec::new(),
            scores: Vec::new(),
            factors: Vec::new(),
            largest: Vec::new(),
            totals: Vec::new(),
            sums: Vec::new(),
            widened: Aligned::new(),
        }
    }

    /// Room for any item of such heads: which thread gets which item is chance, and no later step
    /// shall have to grow this.
    pub(crate) fn reserve(&mut self, heads: Heads) {
        let rows = most_queries(heads.group) * heads.group;
        let vectors = rows.next_multiple_of(LANES);
        let padded = heads.head_dim.next_multiple_of(LANES);
        room(&mut self.rows, rows);
        room(&mut self.scores, rows);
        room(&mut self.factors, vectors);
        room(&mut self.largest, vectors);
        room(&mut self.totals, rows);
        room(&mut self.sums, rows * padded);
        self.widened.resize(TILE * padded);
    }

    pub(super) fn reset(&mut self, rows: usize, padded: usize) {
        self.scores.resize(rows, [0.0; TILE]);
        // Whole vectors of rows are read.
        let vectors = rows.next_multiple_of(LANES);
        self.factors.resize(vectors, 0.0);
        self.largest.clear();
        self.largest.resize(vectors, LEAST);
        self.totals.clear();
        self.totals.resize(rows, 0.0);
        self.sums.clear();
        self.sums.resize(rows * padded, 0.0);
        self.widened.resize(TILE * padded);
    }
}

fn room<T>(values: &mut Vec<T>, wanted: usize) {
    values.reserve(wanted.saturating_sub(values.len()));
}
