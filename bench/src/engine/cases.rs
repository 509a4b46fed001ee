//! What is measured, in which order, and the medians over the rounds.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Tokens in the context of every sequence when decode begins.
pub(super) const CONTEXT: usize = 256;
/// Decode steps that are timed together.
pub(super) const STEPS: usize = 32;

/// One kind of work, of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Case {
    /// The prompt of one sequence, of so many tokens.
    Prefill(usize),
    /// Steps of so many sequences, one token each.
    Decode(usize),
}

impl Case {
    /// Those of the report.
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
    /// Those of a first impression.
    pub(super) const QUICK: [Self; 4] =
        [Self::Prefill(128), Self::Prefill(512), Self::Decode(1), Self::Decode(16)];

    pub(super) fn is_prefill(self) -> bool {
        matches!(self, Self::Prefill(_))
    }

    /// Tokens of the prompt, or sequences in the batch.
    pub(super) fn size(self) -> usize {
        match self {
            Self::Prefill(size) | Self::Decode(size) => size,
        }
    }

    /// Longest sequence of the case.
    pub(super) fn tokens_max(self) -> usize {
        match self {
            Self::Prefill(tokens) => tokens,
            Self::Decode(_) => CONTEXT + STEPS,
        }
    }
}

/// A text that names no case.
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

/// Who computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Contender {
    /// This program.
    Ours,
    /// The peer, on the same file.
    Same,
    /// The peer, on the file requantised to the format that it computes fastest.
    Requantised,
}

/// One contender's go at the cases of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) round: usize,
    pub(super) contender: Contender,
    pub(super) cases: Vec<Case>,
}

/// Everybody's turns: in every round, for prefill and then for decode, each contender once. Who
/// begins changes from round to round, so that nobody always runs after the same neighbour.
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

/// Tokens per second, as measured.
#[derive(Debug, Default)]
pub(super) struct Samples(BTreeMap<(Case, Contender), Vec<f64>>);

impl Samples {
    pub(super) fn add(&mut self, case: Case, contender: Contender, tokens_per_second: f64) {
        self.0.entry((case, contender)).or_default().push(tokens_per_second);
    }

    /// The median over the rounds; none when it was not measured.
    pub(super) fn median(&self, case: Case, contender: Contender) -> Option<f64> {
        median(self.0.get(&(case, contender))?)
    }

    /// Slowest and fastest round.
    pub(super) fn range(&self, case: Case, contender: Contender) -> Option<(f64, f64)> {
        let samples = self.0.get(&(case, contender))?;
        let first = *samples.first()?;
        Some(samples.iter().fold((first, first), |(low, high), &x| (low.min(x), high.max(x))))
    }

    /// The median over the rounds of the ratio within a round: what disturbs both cancels out.
    pub(super) fn ratio(&self, case: Case, over: Contender) -> Option<f64> {
        let (ours, theirs) = (self.0.get(&(case, Contender::Ours))?, self.0.get(&(case, over))?);
        let ratios: Vec<f64> =
            ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
        median(&ratios)
    }
}

/// The middle value, or the mean of the two middle ones.
fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        count if count % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
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
        use Contender::{Ours, Requantised, Same};
        let turns = turns(3, &[Ours, Same, Requantised], &Case::QUICK);
        assert_eq!(turns.len(), 3 * 2 * 3);
        let firsts: Vec<Contender> = turns.chunks(6).map(|round| round[0].contender).collect();
        assert_eq!(firsts, [Ours, Same, Requantised]);
        for (index, kind) in turns.chunks(3).enumerate() {
            let mut who: Vec<Contender> = kind.iter().map(|turn| turn.contender).collect();
            who.sort_unstable();
            assert_eq!(who, [Ours, Same, Requantised]);
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
        assert_eq!(samples.ratio(case, Contender::Requantised), None);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }
}
