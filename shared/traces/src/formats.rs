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

/// How a trace is read.
#[derive(Clone, Default)]
pub struct ReadOptions {
    /// Its format; none means: find out from its content.
    pub format: Option<Format>,
    /// Tokens in a full block, where the file does not say; none means what the format's publishers
    /// use.
    pub block_tokens: Option<u32>,
    /// Counts the tokens of formats that hold text.
    pub vocabulary: Option<Arc<dyn Vocabulary>>,
    /// The piece of time that a generator makes requests for.
    pub window: Option<Window>,
    /// Seed of what a generator draws.
    pub seed: u64,
}

/// What a format can do. Adding one takes this, a line in [`of`], and a name in [`Format`].
pub(crate) trait TraceFormat: Sync {
    /// Its name and the unit of its time stamps, for people.
    fn about(&self) -> &'static str;

    /// Whether content that begins like this is of this format.
    fn recognises(&self, sample: &Sample) -> bool;

    /// Reads a file or folder.
    fn read(&self, path: &Path, options: &ReadOptions) -> Result<Draft, TraceError>;

    /// What a file of this format can hold; none if such files cannot be written.
    fn holds(&self) -> Option<Holds> {
        None
    }

    /// Writes what it can hold of `trace`.
    fn write(&self, _trace: &Trace, _out: &mut dyn Write) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "this format is only read"))
    }
}

/// What is known about a format.
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
    /// The name and what its numbers mean, for people.
    pub fn describe(self) -> &'static str {
        of(self).about()
    }
}

/// The format of a file or folder, if its content fits exactly one.
pub(crate) fn detect(path: &Path) -> Result<Format, TraceError> {
    let sample = Sample::of(path)?;
    let fits: Vec<Format> =
        Format::ALL.into_iter().filter(|format| of(*format).recognises(&sample)).collect();
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

/// What a format can hold of a trace.
#[derive(Clone, Copy)]
pub(crate) struct Holds {
    /// Names of blocks of one length.
    pub(crate) blocks: bool,
    /// Which requests are turns of one session.
    pub(crate) sessions: bool,
    /// How long users think before a turn, where that is not the gap since the turn before.
    pub(crate) thinking: bool,
    /// One clock for all sessions.
    pub(crate) clock: bool,
    /// The step of its time stamps.
    pub(crate) step_ns: i64,
}

impl Holds {
    /// What it cannot hold of `trace`.
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
        let begins_late = |r: &Record| r.at_ns != 0 && (r.turn == 0 || r.session.is_none());
        if trace.timed && trace.records.iter().any(begins_late) && !self.clock {
            lose("when sessions begin");
        }
        if trace.records.iter().any(|r| r.at_ns % self.step_ns != 0) {
            lose(&format!("time stamps finer than {}", Nanos(self.step_ns)));
        }
        lost
    }
}

/// The records that have a turn before them, with the time since then.
fn gaps(trace: &Trace) -> impl Iterator<Item = (&Record, i64)> {
    let mut latest: HashMap<u32, i64> = HashMap::new();
    trace.records.iter().filter_map(move |record| {
        let before_ns = latest.insert(record.session?, record.at_ns)?;
        Some((record, record.at_ns - before_ns))
    })
}

/// The ids of each prompt's blocks in a format that must name blocks of one length: those of the
/// trace, or, where it has none, blocks that no other prompt has.
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
