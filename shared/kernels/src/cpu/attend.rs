//! The attention operation: rotation and storing, then the items of all sequences.

use super::Cpu;
use crate::activation::RmsNorm;
use crate::attention::{self, Attend, Heads, Item, Scratch, Span};
use crate::kv::{Kv, KvShape, PAGE_TOKENS};
use crate::matrix::Matrix;
use crate::memory::Shared;
use crate::rotate::{Angles, HEAD_DIM_MAX, RotateRow};

/// Rows that a thread rotates at a time: as many as share a page.
const ROTATE_ROWS: usize = PAGE_TOKENS;

/// One layer's attention.
#[derive(Clone, Copy)]
pub struct Attention<'a> {
    /// The layer of the KV.
    pub layer: usize,
    /// Query heads.
    pub heads: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// Norms of each query head and each key head.
    pub head_norms: Option<[RmsNorm<'a>; 2]>,
    /// A query sees only this many latest tokens.
    pub window: Option<usize>,
}

/// The memory of attention: the rows of the step, and room.
#[derive(Default)]
pub(super) struct AttentionMemory {
    angles: Angles,
    /// They cover the rows in their order.
    spans: Vec<Span>,
    /// The pages of all of them.
    pages: Vec<u32>,
    /// Pages that the step writes.
    written: Vec<u32>,
    queries: Matrix,
    items: Vec<Item>,
    /// The heads that `items` were cut for; all layers have the same.
    items_of: Option<Heads>,
    scratch: Vec<Scratch>,
}

impl Cpu {
    /// Makes the rows of a step known: their positions, the frequencies of their rotation, and the
    /// sequences that they belong to with the pages of all of them.
    ///
    /// # Panics
    /// Panics if spans do not cover the rows in order, or have too few pages, or two rows would be stored
    /// in one place.
    pub fn begin(
        &mut self,
        positions: &[u32],
        frequencies: &[f64],
        spans: impl IntoIterator<Item = Span>,
        pages: &[u32],
    ) {
        let memory = &mut self.attention;
        memory.angles.set(positions, frequencies);
        memory.spans.clear();
        memory.spans.extend(spans);
        memory.pages.clear();
        memory.pages.extend_from_slice(pages);
        memory.items_of = None;
        memory.check(positions.len());
    }

    /// Norms and rotates queries and keys, stores keys and values, attends.
    ///
    /// # Panics
    /// Panics if shapes do not fit, pages are not in the pool, or the rows are not those of the step.
    pub fn attend(
        &mut self,
        qkv: &Matrix,
        attention: &Attention<'_>,
        kv: &mut Kv,
        out: &mut Matrix,
    ) {
        let shape = kv.shape();
        let (heads, head_dim) = (attention.heads, shape.head_dim);
        check(qkv, attention, shape);
        self.attention.check_pool(qkv.rows(), shape);
        let memory = &mut self.attention;
        memory.queries.reshape(qkv.rows(), heads * head_dim);
        out.reshape(qkv.rows(), heads * head_dim);
        memory.scratch.resize_with(self.pool.threads(), Scratch::new);
        let group = heads / shape.kv_heads;
        let layout = Heads { group, kv_heads: shape.kv_heads, head_dim, window: attention.window };
        memory.scratch.iter_mut().for_each(|scratch| scratch.reserve(layout));

        let isa = self.isa;
        let queries_stride = memory.queries.stride();
        let AttentionMemory { angles, spans, pages, queries, items, items_of, scratch, .. } =
            memory;
        let (spans, pages) = (&spans[..], &pages[..]);
        {
            let queries = Shared::new(queries.all_mut());
            let pool = Shared::new(kv.data.as_mut_slice());
            self.pool.run(qkv.rows().div_ceil(ROTATE_ROWS), &|chunk, _| {
                let first = chunk * ROTATE_ROWS;
                for row in first..(first + ROTATE_ROWS).min(qkv.rows()) {
                    let (page, token) = place(spans, pages, row);
                    isa.run(RotateRow {
                        qkv,
                        row,
                        heads,
                        shape,
                        pool: &pool,
                        page_start: shape.start(attention.layer, page),
                        token,
                        angles,
                        norms: attention.head_norms,
                        scale: attention.scale,
                        queries: &queries,
                        queries_stride,
                    });
                }
            });
        }
        let heads = layout;
        if *items_of != Some(heads) {
            attention::items(spans, heads, items);
            *items_of = Some(heads);
        }
        let out_stride = out.stride();
        let out = Shared::new(out.all_mut());
        let scratch = Shared::new(scratch);
        let (kv, queries, items) = (&*kv, &*queries, &*items);
        self.pool.run(items.len(), &|chunk, thread| {
            let item = items[chunk];
            let span = spans[item.span()];
            // SAFETY: a thread runs one chunk at a time.
            let scratch = unsafe { &mut scratch.part(thread, 1)[0] };
            isa.run(Attend {
                heads,
                layer: attention.layer,
                kv,
                span,
                pages: &pages[span.first_page..span.end_page()],
                item,
                queries,
                out: &out,
                out_stride,
                scratch,
            });
        });
    }
}

impl AttentionMemory {
    fn check(&mut self, rows: usize) {
        let mut next = 0;
        self.written.clear();
        for span in &self.spans {
            assert!(span.first_row == next && span.rows > 0, "spans cover the rows in order");
            next += span.rows;
            let pages = self.pages.get(span.first_page..span.end_page());
            let pages = pages.expect("pages reach the last row");
            self.written.extend_from_slice(&pages[span.position / PAGE_TOKENS..]);
        }
        assert_eq!(next, rows, "spans cover all rows");
        self.written.sort_unstable();
        let is_shared = self.written.windows(2).any(|pair| pair[0] == pair[1]);
        assert!(!is_shared, "every written page belongs to one sequence");
    }

    fn check_pool(&self, rows: usize, shape: KvShape) {
        assert!(self.angles.fit(rows, shape.head_dim), "the rows are those of the step");
        let in_pool = self.pages.iter().all(|&page| (page as usize) < shape.pages);
        assert!(in_pool, "pages are in the pool");
    }
}

/// The page and the place in it of a row.
fn place(spans: &[Span], pages: &[u32], row: usize) -> (usize, usize) {
    let span = spans[spans.partition_point(|span| span.first_row <= row) - 1];
    let token = span.position + row - span.first_row;
    (pages[span.first_page + token / PAGE_TOKENS] as usize, token % PAGE_TOKENS)
}

fn check(qkv: &Matrix, attention: &Attention<'_>, shape: KvShape) {
    let heads = attention.heads;
    assert!(attention.layer < shape.layers, "the layer is in the pool");
    assert!(shape.head_dim.is_multiple_of(2), "heads have pairs of elements");
    assert!(shape.head_dim <= HEAD_DIM_MAX, "heads are not wider than {HEAD_DIM_MAX}");
    assert!(heads > 0 && heads.is_multiple_of(shape.kv_heads), "key heads divide query heads");
    assert_eq!(
        qkv.width(),
        (heads + 2 * shape.kv_heads) * shape.head_dim,
        "queries, keys and values stand side by side"
    );
    assert!(attention.window != Some(0), "a window holds a token or more");
}
