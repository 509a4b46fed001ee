//! The trace formats, one file for each.

mod azure;
mod bailian;
mod burstgpt;
mod mooncake;
mod ragpulse;
mod servegen;
mod sharegpt;
mod splitwise;
mod weka;

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use super::draft::Draft;
use super::error::TraceError;
use super::sample::Sample;
use super::trace::{Format, Record, Trace};
use crate::units::{Nanos, Window};
use crate::vocabulary::Vocabulary;

/// Options for reading a trace.
#[derive(Clone, Default)]
pub struct ReadOptions {
    /// Format; detected from the content if `None`.
    pub format: Option<Format>,
    /// Tokens in a full block, for formats that do not state it; the publisher's size if `None`.
    pub block_tokens: Option<u32>,
    /// Tokenizer that counts the tokens of texts.
    pub vocabulary: Option<Arc<dyn Vocabulary>>,
    /// Window that a generator draws requests for.
    pub window: Option<Window>,
    /// Seed of the generator.
    pub seed: u64,
    /// True to refuse what a reader otherwise passes over and counts.
    pub strict: bool,
}

/// A trace format. To add one, implement this trait, and add a line to [`of`] and a variant to
/// [`Format`].
pub(crate) trait TraceFormat: Sync {
    /// Returns the name of the format and the unit of its time stamps, for people.
    fn about(&self) -> &'static str;

    /// Returns whether content with this beginning has this format.
    fn recognizes(&self, sample: &Sample) -> bool;

    /// Reads a file or a folder.
    fn read(&self, path: &Path, options: &ReadOptions) -> Result<Draft, TraceError>;

    /// Returns what a file of this format can represent; `None` if the format is only read.
    fn capabilities(&self) -> Option<Capabilities> {
        None
    }

    /// Writes as much of `trace` as the format can represent.
    fn write(&self, _trace: &Trace, _out: &mut dyn Write) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "this format is only read"))
    }
}

/// Returns the implementation of a format.
pub(crate) fn of(format: Format) -> &'static dyn TraceFormat {
    match format {
        Format::Mooncake => &mooncake::Mooncake,
        Format::Bailian => &bailian::Bailian,
        Format::Azure => &azure::Azure,
        Format::Burstgpt => &burstgpt::BurstGpt,
        Format::Weka => &weka::Weka,
        Format::Ragpulse => &ragpulse::RagPulse,
        Format::Servegen => &servegen::ServeGen,
        Format::Splitwise => &splitwise::Splitwise,
        Format::Sharegpt => &sharegpt::ShareGpt,
    }
}

impl Format {
    /// Returns the name of the format and the unit of its time stamps, for people.
    pub fn describe(self) -> &'static str {
        of(self).about()
    }
}

/// Detects the format of a file or folder. Fails unless the content fits exactly one.
pub(crate) fn detect(path: &Path) -> Result<Format, TraceError> {
    let sample = Sample::of(path)?;
    let fits: Vec<Format> =
        Format::ALL.into_iter().filter(|format| of(*format).recognizes(&sample)).collect();
    match fits[..] {
        [only] => Ok(only),
        [] => {
            let known: Vec<&str> = Format::ALL.iter().map(|format| of(*format).about()).collect();
            let known = known.join("; ");
            Err(TraceError::Unknown { path: path.to_owned(), found: sample.start, known })
        }
        _ => {
            let fits = fits.iter().map(|format| of(*format).about().to_owned()).collect();
            Err(TraceError::Ambiguous { path: path.to_owned(), fits })
        }
    }
}

/// The parts of a trace that a format can represent.
#[derive(Clone, Copy)]
pub(crate) struct Capabilities {
    /// Ids of blocks of one size.
    pub(crate) blocks: bool,
    /// Sessions.
    pub(crate) sessions: bool,
    /// Think times that differ from the gap since the preceding turn.
    pub(crate) thinking: bool,
    /// A common clock for all sessions.
    pub(crate) clock: bool,
    /// Resolution of the time stamps.
    pub(crate) step_ns: i64,
}

impl Capabilities {
    /// Lists the parts of `trace` that the format cannot represent.
    pub(crate) fn losses(self, trace: &Trace) -> Vec<String> {
        let mut lost = Vec::new();
        let mut lose = |what: &str| lost.push(what.to_owned());
        if trace.sizes.any() && !self.blocks {
            lose("block names, and with them which prompts share a prefix");
        } else if trace.sizes.any() && trace.sizes.uniform().is_none() {
            lose("blocks of unequal length, and with them which prompts share one");
        }
        if trace.records.iter().any(|r| r.session.is_some()) && !self.sessions {
            lose("which requests are turns of one session");
        }
        if gaps(trace).any(|(record, gap_ns)| record.think_ns != gap_ns) && !self.thinking {
            lose("how long users think, apart from the gaps between time stamps");
        }
        let mut starts = trace.records.iter().filter(|r| r.turn == 0 || r.session.is_none());
        if trace.timed && starts.any(|r| r.at_ns != 0) && !self.clock {
            lose("when sessions begin");
        }
        if trace.records.iter().any(|r| r.at_ns % self.step_ns != 0) {
            lose(&format!("time stamps finer than {}", Nanos(self.step_ns)));
        }
        lost
    }
}

/// Yields the records that follow another turn, with the time since that turn's arrival.
fn gaps(trace: &Trace) -> impl Iterator<Item = (&Record, i64)> {
    let mut latest: HashMap<u32, i64> = HashMap::new();
    trace.records.iter().filter_map(move |record| {
        let before_ns = latest.insert(record.session?, record.at_ns)?;
        Some((record, record.at_ns - before_ns))
    })
}

/// Yields the ids of each prompt's blocks for a format that needs blocks of one size: those of the
/// trace or, if it has none, ids that no other prompt has.
fn block_ids(trace: &Trace, block_tokens: u32) -> impl Iterator<Item = Vec<u64>> + '_ {
    let named = trace.sizes.uniform().is_some();
    let mut fresh = 0_u64;
    trace.records.iter().map(move |record| {
        if named {
            return record.blocks.iter().map(|b| trace.block_ids[*b as usize]).collect();
        }
        let first = fresh;
        fresh += u64::from(record.input_tokens.div_ceil(block_tokens));
        (first..fresh).collect()
    })
}
