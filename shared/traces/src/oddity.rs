//! Oddities of published traces: deviations from a format that a reader passes over and counts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::error::{Problem, TraceError};

/// Largest number of kinds that are counted apart. A file may invent any number of field names.
const KINDS_MAX: usize = 40;

/// A deviation from a format that does not keep a trace from being read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Oddity {
    /// A byte-order mark.
    ByteOrderMark,
    /// An empty line.
    EmptyLine,
    /// The header of a table, once more among its rows.
    RepeatedHeader,
    /// A field or column that the format does not have.
    UnknownField(String),
    /// A value that no request needs and that cannot be right.
    UnusableValue(String),
    /// A time stamp before the one above it.
    OutOfOrder,
    /// A time stamp with a fraction of the format's unit.
    FractionalTime,
    /// A request without prompt tokens.
    EmptyPrompt,
    /// A request that does not state the length of its output.
    NoOutputLength,
    /// A prompt without block ids in a trace whose other prompts have some.
    NoBlockIds,
    /// A prompt whose last, partly filled block has no id.
    PartialBlock,
    /// A prompt whose blocks do not add up to its length.
    Coverage,
}

impl Oddity {
    /// Describes `count` such oddities, and what the reader does about them.
    fn describe(&self, count: usize) -> String {
        let some = |one: &str, many: &str| {
            if count == 1 { format!("1 {one}") } else { format!("{count} {many}") }
        };
        match self {
            Self::ByteOrderMark => some("byte-order mark", "byte-order marks") + " skipped",
            Self::EmptyLine => some("empty line", "empty lines") + " skipped",
            Self::RepeatedHeader => some("repeated header", "repeated headers") + " skipped",
            Self::UnknownField(name) if name.is_empty() => "a column without a name ignored".into(),
            Self::UnknownField(name) => {
                format!("unknown field {name} ignored in {}", some("place", "places"))
            }
            Self::UnusableValue(name) => {
                format!("unusable {name} ignored in {}", some("record", "records"))
            }
            Self::OutOfOrder => some("record", "records") + " out of order, sorted",
            Self::FractionalTime => {
                some("time stamp", "time stamps") + " with a fraction, read as milliseconds"
            }
            Self::EmptyPrompt => some("record", "records") + " without prompt tokens, left out",
            Self::NoOutputLength => {
                some("record", "records") + " without an output length, read as no output"
            }
            Self::NoBlockIds => {
                some("prompt", "prompts") + " without block ids: shared with no other prompt"
            }
            Self::PartialBlock => {
                some("prompt", "prompts")
                    + " whose partly filled last block has no id: its tokens are shared with no \
                       other prompt"
            }
            Self::Coverage => {
                some("prompt", "prompts")
                    + " with blocks that do not add up to the length: what is over is cut off, \
                       what is missing is filled with tokens that no other prompt has"
            }
        }
    }
}

/// Occurrences of an oddity.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Occurrences {
    count: usize,
    /// File of the first occurrence.
    path: PathBuf,
    /// Line of the first occurrence, from 1.
    line: u64,
    /// Problem that a strict reader reports at the first occurrence.
    problem: Problem,
}

/// Oddities of a trace, counted by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Oddities {
    found: BTreeMap<Oddity, Occurrences>,
}

impl Oddities {
    /// Counts an oddity at a line of a file.
    pub(crate) fn add(&mut self, mut oddity: Oddity, path: &Path, line: u64, problem: Problem) {
        let full = self.found.len() >= KINDS_MAX && !self.found.contains_key(&oddity);
        if full && matches!(oddity, Oddity::UnknownField(_)) {
            oddity = Oddity::UnknownField("of another name".to_owned());
        }
        let occurrences = self.found.entry(oddity).or_insert_with(|| Occurrences {
            count: 0,
            path: path.to_owned(),
            line,
            problem,
        });
        occurrences.count += 1;
    }

    /// Returns the number of oddities of this kind.
    pub fn count(&self, oddity: &Oddity) -> usize {
        self.found.get(oddity).map_or(0, |occurrences| occurrences.count)
    }

    /// Returns whether the trace has none.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Describes each kind in one sentence, with the place of its first occurrence.
    pub fn describe(&self) -> Vec<String> {
        let sentences = self.found.iter().map(|(oddity, occurrences)| {
            let file = occurrences.path.file_name().unwrap_or_default().to_string_lossy();
            let first = if occurrences.count == 1 { "" } else { "first: " };
            let line = occurrences.line;
            format!("{} ({first}{file}, line {line})", oddity.describe(occurrences.count))
        });
        sentences.collect()
    }

    /// Returns the error of a strict reader at the first oddity of this kind.
    pub(crate) fn refuse(&self, oddity: &Oddity) -> Option<TraceError> {
        let first = self.found.get(oddity)?;
        Some(first.problem.clone().at(&first.path, first.line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_names_are_counted_apart_up_to_a_limit() {
        let mut oddities = Oddities::default();
        for at in 0..1_000 {
            let oddity = Oddity::UnknownField(format!("f{at}"));
            oddities.add(oddity, Path::new("x.jsonl"), at, Problem::new("f", 1, "no such field"));
        }
        let described = oddities.describe();
        assert_eq!(described.len(), KINDS_MAX + 1);
        let others =
            "unknown field of another name ignored in 960 places (first: x.jsonl, line 40)";
        assert!(described.iter().any(|sentence| sentence == others), "{described:?}");
    }
}
