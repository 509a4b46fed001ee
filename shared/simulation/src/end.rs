//! The end of a run: outcomes, predictions and the remaining state.

use protocol::{ErrorClass, PoolState, Refusal};

/// The outcome of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has not ended.
    Open,
    /// Every token was delivered.
    Answered,
    /// Not admitted.
    Refused(ErrorClass),
    /// Ended with an error.
    Failed(Refusal),
    /// The client left.
    Left,
}

/// A predicted and an actual time to first token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// Tokens of the prompt.
    pub tokens: usize,
    /// From the sending of the job, in milliseconds, as predicted then.
    pub predicted_ms: f64,
    /// The actual milliseconds.
    pub actual_ms: f64,
}

/// The end of a run, after every request had ended and every lease had expired.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    /// Outcome of each request, in the order of arrival.
    pub outcomes: Vec<Outcome>,
    /// Requests whose tokens differ from those of an undisturbed run.
    pub wrong: Vec<usize>,
    /// Pools of the workers that are alive.
    pub pools: Vec<PoolState>,
    /// Attempts after the first.
    pub retries: u64,
    /// Times a sequence lost its pages for another.
    pub preemptions: u64,
    /// Predictions of first tokens, in the order in which these came.
    pub predictions: Vec<Prediction>,
    /// Blocks in the store.
    pub blocks: usize,
    /// Virtual milliseconds at the end.
    pub end_ms: u64,
    /// Everything the gateway decided, with its time.
    pub log: Vec<String>,
}

impl End {
    /// Returns the number of requests that got all their tokens.
    pub fn answered(&self) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::Answered))
    }

    /// Returns the number of requests refused before any work.
    pub fn refused(&self) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::Refused(_)))
    }

    /// Returns the number of requests that failed after work had begun.
    pub fn failed(&self) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::Failed(_)))
    }

    /// Returns the number of clients that left.
    pub fn left(&self) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::Left))
    }

    /// Returns the number of requests that never ended.
    pub fn lost(&self) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::Open))
    }

    fn count(&self, is: impl Fn(&Outcome) -> bool) -> usize {
        self.outcomes.iter().filter(|outcome| is(outcome)).count()
    }

    /// Returns whether no pool holds a page for a sequence.
    pub fn at_rest(&self) -> bool {
        self.pools.iter().all(|pool| {
            pool.leaked == 0 && pool.leased == 0 && pool.free + pool.cached == pool.total
        })
    }
}
