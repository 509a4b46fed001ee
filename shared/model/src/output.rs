//! The results of a step for each sequence; kept by the caller and filled again every step.

pub use kernels::Candidate;

/// The results of the head that are wanted of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// None: a chunk in the middle of a prompt.
    None,
    /// This number of most likely tokens after the last token; 1 or more.
    Top(usize),
    /// All logits after the last token.
    Last,
    /// All logits after every token.
    All,
}

/// Results of one step. Filling it again does not allocate once it has grown.
#[derive(Clone, Debug, Default)]
pub struct StepOutput {
    vocab: usize,
    logits: Vec<f32>,
    candidates: Vec<Candidate>,
    rows: Vec<Row>,
    /// End of each sequence's part of `rows`.
    ends: Vec<usize>,
}

#[derive(Clone, Copy, Debug)]
enum Row {
    /// Start within `candidates`, and how many.
    Top(usize, usize),
    /// Row of `logits`.
    Whole(usize),
}

/// The result wanted of one row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RowOutput<'a> {
    /// The most likely tokens, falling, ties by id.
    Top(&'a [Candidate]),
    /// The logit of every token.
    Whole(&'a [f32]),
}

impl StepOutput {
    /// Empties it for a model with `vocab` tokens.
    pub fn clear(&mut self, vocab: usize) {
        self.vocab = vocab;
        self.logits.clear();
        self.candidates.clear();
        self.rows.clear();
        self.ends.clear();
    }

    /// Adds a row of candidates.
    pub fn push_top(&mut self, candidates: &[Candidate]) {
        self.rows.push(Row::Top(self.candidates.len(), candidates.len()));
        self.candidates.extend_from_slice(candidates);
    }

    /// Adds a row of logits, to be written by the caller.
    pub fn push_whole(&mut self) -> &mut [f32] {
        let start = self.logits.len();
        self.rows.push(Row::Whole(start / self.vocab.max(1)));
        self.logits.resize(start + self.vocab, 0.0);
        &mut self.logits[start..]
    }

    /// Says that the next sequence has the next `rows` rows.
    pub fn end_sequence(&mut self, rows: usize) {
        let start = self.ends.last().copied().unwrap_or(0);
        self.ends.push(start + rows);
    }

    /// Returns all rows, in the order in which they were wanted.
    pub fn rows(&self) -> impl Iterator<Item = RowOutput<'_>> {
        self.rows.iter().map(|row| self.resolve(*row))
    }

    /// Returns the rows of one sequence of the batch.
    pub fn sequence(&self, index: usize) -> impl DoubleEndedIterator<Item = RowOutput<'_>> {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.rows[start..self.ends[index]].iter().map(|row| self.resolve(*row))
    }

    fn resolve(&self, row: Row) -> RowOutput<'_> {
        match row {
            Row::Top(start, count) => RowOutput::Top(&self.candidates[start..start + count]),
            Row::Whole(index) => {
                RowOutput::Whole(&self.logits[index * self.vocab..(index + 1) * self.vocab])
            }
        }
    }
}
