//! The sequences of one step: what the caller gives, checked and laid out in rows.

use modelfile::ModelSpec;
use protocol::BLOCK_TOKENS;

use crate::error::StepError;
use crate::ops::{HeadRow, Span, Step};
use crate::output::Wanted;

/// The tokens that one sequence adds in a step: a chunk of its prompt, or its latest token.
#[derive(Clone, Copy, Debug)]
pub struct BatchSequence<'a> {
    /// The tokens; at least one.
    pub tokens: &'a [u32],
    /// Position of the first of them; everything before is in the pages.
    pub position: usize,
    /// Block table: token `t` of the sequence lies in page `pages[t / 16]`.
    pub pages: &'a [u32],
    /// Logits that the caller needs.
    pub logits: Wanted,
}

/// Makes steps out of batches, in memory that is used again.
pub(crate) struct StepBuilder {
    step: Step,
    /// Per page, the latest batch that writes it.
    written: Vec<u64>,
    batches: u64,
}

impl StepBuilder {
    /// Returns a builder for a pool of `pages` pages.
    pub(crate) fn new(pages: usize) -> Self {
        Self { step: Step::default(), written: vec![0; pages], batches: 0 }
    }

    /// Checks a batch and lays it out, rows in the order of its sequences.
    pub(crate) fn build(
        &mut self,
        sequences: &[BatchSequence],
        spec: &ModelSpec,
    ) -> Result<&Step, StepError> {
        self.batches += 1;
        for (index, sequence) in sequences.iter().enumerate() {
            self.check(index, sequence, spec)?;
        }
        let Step { tokens, positions, spans, pages, wanted } = &mut self.step;
        tokens.clear();
        positions.clear();
        spans.clear();
        pages.clear();
        wanted.clear();
        for sequence in sequences {
            let (row, page) = (tokens.len(), pages.len());
            let end = sequence.position + sequence.tokens.len();
            tokens.extend_from_slice(sequence.tokens);
            // A context is shorter than 2^26 tokens: see `ModelSpec`.
            positions.extend((sequence.position..end).map(|position| position as u32));
            pages.extend_from_slice(&sequence.pages[..end.div_ceil(BLOCK_TOKENS)]);
            let rows = row..tokens.len();
            let (first, top) = match sequence.logits {
                Wanted::None => (rows.end, 0),
                Wanted::Top(top) => (rows.end - 1, top),
                Wanted::Last => (rows.end - 1, 0),
                Wanted::All => (rows.start, 0),
            };
            wanted.extend((first..rows.end).map(|row| HeadRow { row, top }));
            let position = sequence.position;
            spans.push(Span { rows, position, pages: page..pages.len() });
        }
        Ok(&self.step)
    }

    fn check(
        &mut self,
        index: usize,
        sequence: &BatchSequence,
        spec: &ModelSpec,
    ) -> Result<(), StepError> {
        if sequence.tokens.is_empty() {
            return Err(StepError::NoTokens { sequence: index });
        }
        if let Some(&token) = sequence.tokens.iter().find(|&&token| token as usize >= spec.vocab) {
            return Err(StepError::UnknownToken { sequence: index, token, vocab: spec.vocab });
        }
        if sequence.logits == Wanted::Top(0) {
            return Err(StepError::NothingWanted { sequence: index });
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
        let pages = self.written.len();
        let used = &sequence.pages[..needed];
        if let Some(&page) = used.iter().find(|&&page| page as usize >= pages) {
            return Err(StepError::UnknownPage { page, pages });
        }
        for &page in &used[sequence.position / BLOCK_TOKENS..] {
            let latest = std::mem::replace(&mut self.written[page as usize], self.batches);
            if latest == self.batches {
                return Err(StepError::SharedPage { page });
            }
        }
        Ok(())
    }
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
    fn rows_keep_the_callers_order() {
        let chunk: Vec<u32> = (0..20).collect();
        let batch = [
            sequence(&chunk, 12, &[9, 2, 3]),
            BatchSequence { logits: Wanted::Top(5), ..sequence(&[7], 0, &[4]) },
            BatchSequence { logits: Wanted::None, ..sequence(&[8], 70, &[5, 6, 7, 8, 1]) },
            BatchSequence { logits: Wanted::All, ..sequence(&[1, 2], 0, &[0]) },
        ];
        let mut builder = StepBuilder::new(10);
        // Nothing of an earlier batch is left.
        builder.build(&batch[1..], &spec()).unwrap();
        let step = builder.build(&batch, &spec()).unwrap();

        assert_eq!((step.rows(), &step.tokens[19..]), (24, &[19, 7, 8, 1, 2][..]));
        assert_eq!(step.positions[19..], [31, 0, 70, 0, 1]);
        // The third page of the first is not reached.
        assert_eq!(step.pages, [9, 2, 4, 5, 6, 7, 8, 1, 0]);
        assert_eq!(step.spans[0], Span { rows: 0..20, position: 12, pages: 0..2 });
        assert_eq!(step.spans[2], Span { rows: 21..22, position: 70, pages: 3..8 });
        assert_eq!(step.slot(&step.spans[0], 3), (9, 15));
        assert_eq!(step.slot(&step.spans[0], 4), (2, 0));
        assert_eq!(step.slot(&step.spans[2], 21), (1, 6));
        let wanted: Vec<_> = step.wanted.iter().map(|wanted| (wanted.row, wanted.top)).collect();
        assert_eq!(wanted, [(19, 0), (20, 5), (22, 0), (23, 0)]);
    }

    #[test]
    fn what_cannot_be_computed_is_refused() {
        let refuse = |sequences: &[BatchSequence]| {
            StepBuilder::new(10).build(sequences, &spec()).err().unwrap()
        };
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
        let nothing = BatchSequence { logits: Wanted::Top(0), ..sequence(&[1], 0, &[1]) };
        assert!(matches!(refuse(&[nothing]), StepError::NothingWanted { sequence: 0 }));
        assert!(matches!(
            refuse(&[sequence(&[1], 3, &[4]), sequence(&[1], 5, &[4])]),
            StepError::SharedPage { page: 4 }
        ));
        // Reading a page together is what prefix sharing is.
        let shared = [sequence(&[1], 16, &[4, 5]), sequence(&[1], 16, &[4, 6])];
        assert!(StepBuilder::new(10).build(&shared, &spec()).is_ok());
    }
}
