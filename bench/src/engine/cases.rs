//! The cases, the order in which contenders run them, and the medians over the rounds.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::figures::median;

/// Tokens in the context of every sequence when decode begins.
pub(super) const CONTEXT: usize = 256;
/// Decode steps that are timed together.
pub(super) const STEPS: usize = 32;

/// A kind of work and its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Case {
    /// One prompt of this many tokens.
    Prefill(usize),
    /// Steps of this many sequences, one token each.
    Decode(usize),
}

impl Case {
    /// The cases of a full report.
    pub(super) const FULL: [Self; 8] = [
        Self::Prefill(128),
        Self::Prefill(512),
        Self::Prefill(2048),
        Self::Decode(1),
        Self::Decode(4),
        Self::Decode(8),
        Self::Decode(16),
        Self::Decode(32),
    ];
    /// The cases of `--quick`.
    pub(super) const QUICK: [Self; 4] =
        [Self::Prefill(128), Self::Prefill(512), Self::Decode(1), Self::Decode(16)];

    pub(super) fn is_prefill(self) -> bool {
        matches!(self, Self::Prefill(_))
    }

    /// Returns the tokens of the prompt, or the sequences in the batch.
    pub(super) fn size(self) -> usize {
        match self {
            Self::Prefill(size) | Self::Decode(size) => size,
        }
    }

    /// Returns the length of the longest sequence of the case.
    pub(super) fn tokens_max(self) -> usize {
        match self {
            Self::Prefill(tokens) => tokens,
            Self::Decode(_) => CONTEXT + STEPS,
        }
    }
}

/// The error for a text that names no case.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("case {text:?} is neither prefill-TOKENS nor decode-BATCH, with 1 to {SIZE_MAX}")]
pub(super) struct ParseCaseError {
    text: String,
}

const SIZE_MAX: usize = 65_536;

impl FromStr for Case {
    type Err = ParseCaseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let size = |text: &str| text.parse().ok().filter(|size| (1..=SIZE_MAX).contains(size));
        let case = match text.split_once('-') {
            Some(("prefill", tokens)) => size(tokens).map(Self::Prefill),
            Some(("decode", batch)) => size(batch).map(Self::Decode),
            _ => None,
        };
        case.ok_or_else(|| ParseCaseError { text: text.to_owned() })
    }
}

impl fmt::Display for Case {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.is_prefill() { "prefill" } else { "decode" };
        write!(formatter, "{name}-{}", self.size())
    }
}

/// A program that computes the cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Contender {
    /// Tandem.
    Ours,
    /// The peer, on the same file.
    Same,
    /// The peer, on the file requantized to the format that it computes fastest.
    Requantized,
}

/// One contender's run of the cases of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) round: usize,
    pub(super) contender: Contender,
    pub(super) cases: Vec<Case>,
}

/// Returns all turns: in every round, for prefill and then for decode, each contender once. The
/// first contender changes from round to round, so that none always runs after the same neighbor.
pub(super) fn turns(rounds: usize, contenders: &[Contender], cases: &[Case]) -> Vec<Turn> {
    let (prefill, decode): (Vec<Case>, Vec<Case>) =
        cases.iter().partition(|case| case.is_prefill());
    let mut turns = Vec::new();
    for round in 0..rounds {
        let mut order = contenders.to_vec();
        order.rotate_left(round % contenders.len().max(1));
        for cases in [&prefill, &decode].into_iter().filter(|cases| !cases.is_empty()) {
            turns.extend(order.iter().map(|&contender| Turn {
                round,
                contender,
                cases: cases.clone(),
            }));
        }
    }
    turns
}

/// Measured tokens per second, by case and contender.
#[derive(Debug, Default)]
pub(super) struct Samples(BTreeMap<(Case, Contender), Vec<f64>>);

impl Samples {
    pub(super) fn add(&mut self, case: Case, contender: Contender, tokens_per_second: f64) {
        self.0.entry((case, contender)).or_default().push(tokens_per_second);
    }

    /// Returns the median over the rounds, or `None` if it was not measured.
    pub(super) fn median(&self, case: Case, contender: Contender) -> Option<f64> {
        Some(median(self.0.get(&(case, contender))?.clone()))
    }

    /// Returns the slowest and the fastest round.
    pub(super) fn range(&self, case: Case, contender: Contender) -> Option<(f64, f64)> {
        let samples = self.0.get(&(case, contender))?;
        let first = *samples.first()?;
        Some(samples.iter().fold((first, first), |(low, high), &x| (low.min(x), high.max(x))))
    }

    /// Returns the median over the rounds of the ratio within a round. A disturbance of both sides
    /// cancels out.
    pub(super) fn ratio(&self, case: Case, over: Contender) -> Option<f64> {
        let (ours, theirs) = (self.0.get(&(case, Contender::Ours))?, self.0.get(&(case, over))?);
        Some(median(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_read_as_they_are_written() {
        for case in Case::FULL {
            assert_eq!(case.to_string().parse(), Ok(case));
        }
        for text in ["prefill", "prefill-", "prefill-0", "decode--1", "prefill-70000", "train-1"] {
            assert!(text.parse::<Case>().is_err(), "{text}");
        }
    }

    #[test]
    fn everyone_has_a_turn_at_each_kind_in_every_round_and_the_first_changes() {
        use Contender::{Ours, Requantized, Same};
        let turns = turns(3, &[Ours, Same, Requantized], &Case::QUICK);
        assert_eq!(turns.len(), 3 * 2 * 3);
        let firsts: Vec<Contender> = turns.chunks(6).map(|round| round[0].contender).collect();
        assert_eq!(firsts, [Ours, Same, Requantized]);
        for (index, kind) in turns.chunks(3).enumerate() {
            let mut contenders: Vec<Contender> = kind.iter().map(|turn| turn.contender).collect();
            contenders.sort_unstable();
            assert_eq!(contenders, [Ours, Same, Requantized]);
            assert!(kind.iter().all(|turn| turn.cases == kind[0].cases && turn.round == index / 2));
        }
    }

    #[test]
    fn a_kind_without_cases_has_no_turns() {
        let turns = turns(2, &[Contender::Ours], &[Case::Decode(3)]);
        assert_eq!(turns.len(), 2);
        assert!(turns.iter().all(|turn| turn.cases == [Case::Decode(3)]));
    }

    #[test]
    fn medians_and_ratios_ignore_an_outlier() {
        let mut samples = Samples::default();
        let case = Case::Decode(4);
        for (ours, theirs) in [(40.0, 20.0), (9.0, 3.0), (50.0, 25.0)] {
            samples.add(case, Contender::Ours, ours);
            samples.add(case, Contender::Same, theirs);
        }
        assert_eq!(samples.median(case, Contender::Ours), Some(40.0));
        assert_eq!(samples.ratio(case, Contender::Same), Some(2.0));
        assert_eq!(samples.range(case, Contender::Ours), Some((9.0, 50.0)));
        assert_eq!(samples.median(Case::Decode(5), Contender::Ours), None);
        assert_eq!(samples.ratio(case, Contender::Requantized), None);
    }
}
