//! The sequences of one step: what the caller gives, checked, and how rows share operations.

use crate::BLOCK_TOKENS;
use crate::error::StepError;
use modelfile::ModelSpec;
use std::collections::BTreeMap;
use std::ops::Range;

/// Most tokens of a chunk that attend in one operation; bounds the matrix of scores.
const QUERIES_MAX: usize = 128;
/// Attention looks at whole runs of this many tokens and masks what lies behind the last: sums are
/// then taken in the same order however far a sequence is padded. Fewer tokens would let the CPU's
/// matrix multiplication take another way for small products.
const CONTEXT_STEP: usize = 128;

/// The tokens that one sequence adds in a step: a chunk of its prompt, or its latest token.
#[derive(Clone, Copy, Debug)]
pub struct BatchSequence<'a> {
    /// The tokens; at least one.
    pub tokens: &'a [u32],
    /// Position of the first of them; everything before is in the pages.
    pub position: usize,
    /// Block table: token `t` of the sequence lies in page `pages[t / 16]`.
    pub pages: &'a [u32],
    /// Which logits the caller needs.
    pub logits: Wanted,
}

/// What the head is to tell of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// None: a chunk in the middle of a prompt.
    None,
    /// The so many most likely tokens after the last token; 1 or more.
    Top(usize),
    /// All logits after the last token.
    Last,
    /// All logits after every token.
    All,
}

impl BatchSequence<'_> {
    fn end(&self) -> usize {
        self.position + self.tokens.len()
    }
}

/// Rows that attend together: sequences with equally many queries each.
pub(crate) struct Group {
    /// Their rows, which follow each other: `sequences` times `queries`.
    pub(crate) rows: Range<usize>,
    pub(crate) sequences: usize,
    pub(crate) queries: usize,
    /// Pages per sequence after padding.
    pub(crate) pages_each: usize,
    /// Page of every sequence's every run of 16 tokens, padded with page 0.
    pub(crate) pages: Vec<u32>,
    /// Per row, how many tokens it may look at.
    pub(crate) visible: Vec<usize>,
}

impl Group {
    /// Tokens that attention looks at, masked ones included.
    pub(crate) fn context(&self) -> usize {
        self.pages_each * BLOCK_TOKENS
    }
}

/// A checked batch, its rows in the order of computation.
pub(crate) struct Batch {
    pub(crate) tokens: Vec<u32>,
    pub(crate) positions: Vec<usize>,
    /// Where each row's K and V go: `page * 16 + offset`.
    pub(crate) slots: Vec<u32>,
    pub(crate) groups: Vec<Group>,
    /// Rows whose logits are wanted, sequence after sequence.
    pub(crate) wanted: Vec<usize>,
    /// How many of `wanted` belong to each sequence.
    pub(crate) wanted_each: Vec<usize>,
}

impl Batch {
    pub(crate) fn new(
        sequences: &[BatchSequence],
        spec: &ModelSpec,
        pages: usize,
    ) -> Result<Self, StepError> {
        check(sequences, spec, pages)?;
        // Single tokens first: all of them form one group.
        let mut order: Vec<usize> = (0..sequences.len()).collect();
        order.sort_by_key(|&index| (sequences[index].tokens.len() != 1, index));
        let mut batch = Self {
            tokens: Vec::new(),
            positions: Vec::new(),
            slots: Vec::new(),
            groups: Vec::new(),
            wanted: Vec::new(),
            wanted_each: Vec::with_capacity(sequences.len()),
        };
        let mut first_row = vec![0; sequences.len()];
        for &index in &order {
            first_row[index] = batch.tokens.len();
            batch.push_rows(&sequences[index]);
        }
        let single = order.iter().take_while(|&&index| sequences[index].tokens.len() == 1).count();
        let singles: Vec<&BatchSequence> =
            order[..single].iter().map(|&index| &sequences[index]).collect();
        batch.push_singles(&singles);
        for &index in &order[single..] {
            batch.push_chunks(&sequences[index], first_row[index]);
        }
        for (sequence, first) in sequences.iter().zip(first_row) {
            let rows = first..first + sequence.tokens.len();
            let skipped = match sequence.logits {
                Wanted::None => rows.len(),
                Wanted::Top(_) | Wanted::Last => rows.len() - 1,
                Wanted::All => 0,
            };
            batch.wanted_each.push(rows.len() - skipped);
            batch.wanted.extend(rows.skip(skipped));
        }
        Ok(batch)
    }

    fn push_rows(&mut self, sequence: &BatchSequence) {
        for (offset, &token) in sequence.tokens.iter().enumerate() {
            let position = sequence.position + offset;
            let page = sequence.pages[position / BLOCK_TOKENS] as usize;
            self.tokens.push(token);
            self.positions.push(position);
            self.slots.push((page * BLOCK_TOKENS + position % BLOCK_TOKENS) as u32);
        }
    }

    fn push_singles(&mut self, singles: &[&BatchSequence]) {
        let Some(longest) = singles.iter().map(|sequence| sequence.end()).max() else { return };
        let pages_each = padded_pages(longest);
        let mut pages = Vec::with_capacity(singles.len() * pages_each);
        for sequence in singles {
            extend_padded(&mut pages, sequence.pages, sequence.end(), pages_each);
        }
        self.groups.push(Group {
            rows: 0..singles.len(),
            sequences: singles.len(),
            queries: 1,
            pages_each,
            pages,
            visible: singles.iter().map(|sequence| sequence.end()).collect(),
        });
    }

    fn push_chunks(&mut self, sequence: &BatchSequence, first_row: usize) {
        let count = sequence.tokens.len();
        for start in (0..count).step_by(QUERIES_MAX) {
            let queries = (count - start).min(QUERIES_MAX);
            let end = sequence.position + start + queries;
            let pages_each = padded_pages(end);
            let mut pages = Vec::with_capacity(pages_each);
            extend_padded(&mut pages, sequence.pages, end, pages_each);
            self.groups.push(Group {
                rows: first_row + start..first_row + start + queries,
                sequences: 1,
                queries,
                pages_each,
                pages,
                visible: (end - queries + 1..=end).collect(),
            });
        }
    }
}

fn padded_pages(tokens: usize) -> usize {
    tokens.next_multiple_of(CONTEXT_STEP) / BLOCK_TOKENS
}

fn extend_padded(out: &mut Vec<u32>, table: &[u32], tokens: usize, pages_each: usize) {
    let used = tokens.div_ceil(BLOCK_TOKENS);
    out.extend(&table[..used]);
    out.extend(std::iter::repeat_n(0, pages_each - used));
}

fn check(sequences: &[BatchSequence], spec: &ModelSpec, pages: usize) -> Result<(), StepError> {
    let mut written: BTreeMap<u32, usize> = BTreeMap::new();
    for (index, sequence) in sequences.iter().enumerate() {
        if sequence.tokens.is_empty() {
            return Err(StepError::NoTokens { sequence: index });
        }
        if let Some(&token) = sequence.tokens.iter().find(|&&token| token as usize >= spec.vocab) {
            return Err(StepError::UnknownToken { sequence: index, token, vocab: spec.vocab });
        }
        let end = sequence.position.saturating_add(sequence.tokens.len());
        if end > spec.context_tokens {
            let context = spec.context_tokens;
            return Err(StepError::TooLong { sequence: index, tokens: end, context });
        }
        let needed = end.div_ceil(BLOCK_TOKENS);
        let given = sequence.pages.len();
        if given < needed {
            return Err(StepError::TooFewPages { sequence: index, needed, given });
        }
        let used = &sequence.pages[..needed];
        if let Some(&page) = used.iter().find(|&&page| page as usize >= pages) {
            return Err(StepError::UnknownPage { page, pages });
        }
        for &page in &used[sequence.position / BLOCK_TOKENS..] {
            if written.insert(page, index).is_some() {
                return Err(StepError::SharedPage { page });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use modelfile::{Family, RopePairs};

    fn spec() -> ModelSpec {
        ModelSpec {
            family: Family::Llama,
            layers: 1,
            hidden: 8,
            heads: 2,
            kv_heads: 1,
            head_dim: 4,
            ffn: 8,
            vocab: 100,
            context_tokens: 400,
            rope_theta: 1e4,
            rope_factors: None,
            rope_pairs: RopePairs::Halves,
            rms_eps: 1e-5,
            tied_embeddings: true,
            window: None,
            qkv_bias: false,
            head_norms: false,
        }
    }

    fn sequence<'a>(tokens: &'a [u32], position: usize, pages: &'a [u32]) -> BatchSequence<'a> {
        BatchSequence { tokens, position, pages, logits: Wanted::Last }
    }

    #[test]
    fn single_tokens_share_a_group_and_logits_keep_the_callers_order() {
        let chunk: Vec<u32> = (0..20).collect();
        let batch = Batch::new(
            &[
                sequence(&chunk, 12, &[9, 2, 3]),
                sequence(&[7], 0, &[4]),
                BatchSequence { logits: Wanted::None, ..sequence(&[8], 70, &[5, 6, 7, 8, 1]) },
            ],
            &spec(),
            10,
        )
        .unwrap();

        assert_eq!(batch.tokens[..3], [7, 8, 0]);
        assert_eq!(batch.wanted, [21, 0]);
        assert_eq!(batch.wanted_each, [1, 1, 0]);
        assert_eq!(batch.slots[..3], [64, 16 + 6, 9 * 16 + 12]);
        assert_eq!(batch.groups.len(), 2);
        let (single, chunk) = (&batch.groups[0], &batch.groups[1]);
        assert_eq!((single.sequences, single.queries, single.context()), (2, 1, 128));
        assert_eq!(single.pages, [4, 0, 0, 0, 0, 0, 0, 0, 5, 6, 7, 8, 1, 0, 0, 0]);
        assert_eq!(single.visible, [1, 71]);
        assert_eq!((chunk.rows.clone(), chunk.context()), (2..22, 128));
        assert_eq!((chunk.visible[0], chunk.visible[19]), (13, 32));
    }

    #[test]
    fn long_chunks_are_cut() {
        let tokens = [1; 300];
        let pages: Vec<u32> = (0..19).collect();
        let batch = Batch::new(&[sequence(&tokens, 0, &pages)], &spec(), 19).unwrap();
        let rows: Vec<_> = batch.groups.iter().map(|group| group.rows.clone()).collect();
        assert_eq!(rows, [0..128, 128..256, 256..300]);
        assert_eq!(batch.groups[1].context(), 256);
    }

    #[test]
    fn what_cannot_be_computed_is_refused() {
        let refuse =
            |sequences: &[BatchSequence]| Batch::new(sequences, &spec(), 10).err().unwrap();
        assert!(matches!(refuse(&[sequence(&[], 0, &[1])]), StepError::NoTokens { sequence: 0 }));
        assert!(matches!(
            refuse(&[sequence(&[1], 0, &[1]), sequence(&[100], 0, &[2])]),
            StepError::UnknownToken { sequence: 1, token: 100, vocab: 100 }
        ));
        assert!(matches!(
            refuse(&[sequence(&[1], 16, &[1])]),
            StepError::TooFewPages { sequence: 0, needed: 2, given: 1 }
        ));
        assert!(matches!(
            refuse(&[sequence(&[1], 0, &[10])]),
            StepError::UnknownPage { page: 10, pages: 10 }
        ));
        assert!(matches!(
            refuse(&[sequence(&[1], 400, &[1])]),
            StepError::TooLong { tokens: 401, context: 400, .. }
        ));
        assert!(matches!(
            refuse(&[sequence(&[1], 3, &[4]), sequence(&[1], 5, &[4])]),
            StepError::SharedPage { page: 4 }
        ));
        // Reading a page together is what prefix sharing is.
        let shared = [sequence(&[1], 16, &[4, 5]), sequence(&[1], 16, &[4, 6])];
        assert!(Batch::new(&shared, &spec(), 10).is_ok());
    }
}
