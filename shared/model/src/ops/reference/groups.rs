//! Groups of rows that attend together, so that each of them is computed as it would be alone.

use std::ops::Range;

use protocol::BLOCK_TOKENS;

use crate::ops::{Span, Step};

/// Most tokens of a chunk that attend in one operation; bounds the matrix of scores.
const QUERIES_MAX: usize = 128;
/// Attention looks at whole runs of this many tokens and masks what lies behind the last: sums are
/// then taken in the same order however far a sequence is padded. Fewer tokens would let the CPU's
/// matrix multiplication take another way for small products.
const CONTEXT_STEP: usize = 128;

/// Rows that attend together: sequences with equally many queries each.
pub(super) struct Group {
    /// Their rows, which follow each other: `sequences` times `queries`.
    pub(super) rows: Range<usize>,
    pub(super) sequences: usize,
    pub(super) queries: usize,
    /// Pages per sequence after padding.
    pub(super) pages_each: usize,
    /// Page of every sequence's every run of 16 tokens, padded with its first.
    pub(super) pages: Vec<u32>,
    /// Per row, how many tokens lie before its end.
    pub(super) visible: Vec<usize>,
}

impl Group {
    /// Tokens that attention looks at, masked ones included.
    pub(super) fn context(&self) -> usize {
        self.pages_each * BLOCK_TOKENS
    }
}

/// Forms the groups of a step: single rows that follow each other share one, chunks are cut.
pub(super) fn groups(step: &Step) -> Vec<Group> {
    let single = |span: &Span| span.rows.len() == 1;
    let mut groups = Vec::new();
    for spans in step.spans.chunk_by(|a, b| single(a) && single(b)) {
        match spans {
            [chunk] if !single(chunk) => push_chunks(&mut groups, step, chunk),
            singles => groups.push(of_singles(step, singles)),
        }
    }
    groups
}

fn of_singles(step: &Step, singles: &[Span]) -> Group {
    let longest = singles.iter().map(|span| span.position + 1).max().unwrap_or(0);
    let pages_each = padded_pages(longest);
    let mut pages = Vec::with_capacity(singles.len() * pages_each);
    for span in singles {
        extend_padded(&mut pages, &step.pages[span.pages.clone()], span.position + 1, pages_each);
    }
    Group {
        rows: singles[0].rows.start..singles[0].rows.start + singles.len(),
        sequences: singles.len(),
        queries: 1,
        pages_each,
        pages,
        visible: singles.iter().map(|span| span.position + 1).collect(),
    }
}

fn push_chunks(groups: &mut Vec<Group>, step: &Step, span: &Span) {
    let count = span.rows.len();
    for start in (0..count).step_by(QUERIES_MAX) {
        let queries = (count - start).min(QUERIES_MAX);
        let end = span.position + start + queries;
        let pages_each = padded_pages(end);
        let mut pages = Vec::with_capacity(pages_each);
        extend_padded(&mut pages, &step.pages[span.pages.clone()], end, pages_each);
        groups.push(Group {
            rows: span.rows.start + start..span.rows.start + start + queries,
            sequences: 1,
            queries,
            pages_each,
            pages,
            visible: (end - queries + 1..=end).collect(),
        });
    }
}

fn padded_pages(tokens: usize) -> usize {
    tokens.next_multiple_of(CONTEXT_STEP) / BLOCK_TOKENS
}

fn extend_padded(out: &mut Vec<u32>, table: &[u32], tokens: usize, pages_each: usize) {
    let used = tokens.div_ceil(BLOCK_TOKENS);
    out.extend(&table[..used]);
    out.extend(std::iter::repeat_n(table[0], pages_each - used));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(sequences: &[(usize, usize, &[u32])]) -> Step {
        let mut step = Step::default();
        let mut row = 0;
        for &(position, count, table) in sequences {
            let first_page = step.pages.len();
            step.pages.extend(table);
            let pages = first_page..step.pages.len();
            step.spans.push(Span { rows: row..row + count, position, pages });
            row += count;
        }
        step
    }

    #[test]
    fn single_rows_that_follow_each_other_share_a_group() {
        let long = [5, 6, 7, 8, 1];
        let groups = groups(&step(&[(12, 20, &[9, 2]), (0, 1, &[4]), (70, 1, &long)]));
        assert_eq!(groups.len(), 2);
        let (chunk, single) = (&groups[0], &groups[1]);
        assert_eq!((chunk.rows.clone(), chunk.context()), (0..20, 128));
        assert_eq!((chunk.visible[0], chunk.visible[19]), (13, 32));
        assert_eq!((single.rows.clone(), single.sequences, single.queries), (20..22, 2, 1));
        assert_eq!(single.pages, [4, 4, 4, 4, 4, 4, 4, 4, 5, 6, 7, 8, 1, 5, 5, 5]);
        assert_eq!(single.visible, [1, 71]);
    }

    #[test]
    fn long_chunks_are_cut() {
        let pages: Vec<u32> = (0..19).collect();
        let groups = groups(&step(&[(0, 300, &pages)]));
        let rows: Vec<_> = groups.iter().map(|group| group.rows.clone()).collect();
        assert_eq!(rows, [0..128, 128..256, 256..300]);
        assert_eq!(groups[1].context(), 256);
    }
}
