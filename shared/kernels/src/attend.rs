//! The attention operation: rotation and storing, then the items of all sequences.

use crate::activation::RmsNorm;
use crate::attention::{self, Attend, Heads, Item, Scratch, Span};
use crate::cpu::Cpu;
use crate::kv::{Kv, PAGE_TOKENS};
use crate::matrix::Matrix;
use crate::memory::Shared;
use crate::rotate::{Angles, HEAD_DIM_MAX, RotateRow};

/// Rows that a thread rotates at a time: as many as share a page.
const ROTATE_ROWS: usize = PAGE_TOKENS;

/// One layer's attention.
#[derive(Clone, Copy)]
pub struct Attention<'a> {
    /// Which layer of the KV.
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

/// The sequences of a step.
#[derive(Clone, Copy, Debug)]
pub struct Spans<'a> {
    /// They cover the rows in their order.
    pub spans: &'a [Span],
    /// The pages of all of them.
    pub pages: &'a [u32],
}

/// What attention keeps between steps.
#[derive(Default)]
pub(crate) struct AttentionMemory {
    pub(crate) angles: Angles,
    queries: Matrix,
    items: Vec<Item>,
    scratch: Vec<Scratch>,
}

impl Cpu {
    /// Computes the rotation of the rows of a step.
    pub fn set_positions(&mut self, positions: &[u32], frequencies: &[f64]) {
        self.attention.angles.set(positions, frequencies);
    }

    /// Norms and rotates queries and keys, stores keys and values, attends.
    ///
    /// # Panics
    /// When shapes do not fit, spans do not cover the rows in order, pages are not in the pool or
    /// too few, or the rows' positions were not set.
    pub fn attend(
        &mut self,
        qkv: &Matrix,
        rows: &Spans<'_>,
        attention: &Attention<'_>,
        kv: &mut Kv,
        out: &mut Matrix,
    ) {
        let shape = kv.shape();
        let (heads, head_dim) = (attention.heads, shape.head_dim);
        check(qkv, rows, attention, kv);
        let Spans { spans, pages } = *rows;
        assert!(self.attention.angles.fit(qkv.rows(), head_dim), "the rows' positions were set");
        let memory = &mut self.attention;
        memory.queries.reshape(qkv.rows(), heads * head_dim);
        out.reshape(qkv.rows(), heads * head_dim);
        memory.scratch.resize_with(self.pool.threads(), Scratch::new);

        let isa = self.isa;
        let queries_stride = memory.queries.stride();
        let AttentionMemory { angles, queries, items, scratch } = memory;
        {
            let queries = Shared::new(queries.all_mut());
            let pool = Shared::new(kv.data.as_mut_slice());
            self.pool.run(qkv.rows().div_ceil(ROTATE_ROWS), &|chunk, _| {
                let first = chunk * ROTATE_ROWS;
                for row in first..(first + ROTATE_ROWS).min(qkv.rows()) {
                    let (page, token) = place(rows, row);
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
        let group = heads / shape.kv_heads;
        let heads = Heads { group, kv_heads: shape.kv_heads, head_dim, window: attention.window };
        attention::items(spans, heads, items);
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

/// The page and the place in it of a row.
fn place(rows: &Spans<'_>, row: usize) -> (usize, usize) {
    let index = rows.spans.partition_point(|span| span.first_row <= row) - 1;
    let span = &rows.spans[index];
    let token = span.position + row - span.first_row;
    (rows.pages[span.first_page + token / PAGE_TOKENS] as usize, token % PAGE_TOKENS)
}

fn check(qkv: &Matrix, rows: &Spans<'_>, attention: &Attention<'_>, kv: &Kv) {
    let shape = kv.shape();
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
    let mut next = 0;
    for span in rows.spans {
        assert!(span.first_row == next && span.rows > 0, "spans cover the rows in order");
        next += span.rows;
        let pages = rows.pages.get(span.first_page..span.end_page());
        let pages = pages.expect("pages reach the last row");
        let in_pool = pages.iter().all(|&page| (page as usize) < shape.pages);
        assert!(in_pool, "pages are in the pool");
    }
    assert_eq!(next, qkv.rows(), "spans cover all rows");
}
