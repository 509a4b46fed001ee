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

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use super::detect::Sample;
use super::draft::Draft;
use super::error::TraceError;
use super::{Format, Trace};
use crate::units::Window;
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
pub(super) trait TraceFormat: Sync {
    /// Its name and the unit of its time stamps, for people.
    fn about(&self) -> &'static str;

    /// Whether content that begins like this is of this format.
    fn recognises(&self, sample: &Sample) -> bool;

    /// Reads a file or folder.
    fn read(&self, path: &Path, options: &ReadOptions) -> Result<Draft, TraceError>;

    /// What of `trace` a file of this format cannot hold; none if such files cannot be written.
    fn losses(&self, _trace: &Trace) -> Option<Vec<String>> {
        None
    }

    /// Writes what it can hold of `trace`.
    fn write(&self, _trace: &Trace, _out: &mut dyn Write) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "this format is only read"))
    }
}

/// What is known about a format.
pub(super) fn of(format: Format) -> &'static dyn TraceFormat {
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

/// What a target loses of a trace, piece by piece.
#[derive(Clone, Copy)]
struct Holds {
    /// Names of blocks of one length.
    blocks: bool,
    /// Which requests are turns of one session.
    sessions: bool,
    /// How long users think before a turn.
    thinking: bool,
    /// The step of its time stamps.
    step_ns: i64,
}

impl Holds {
    fn losses(self, trace: &Trace) -> Vec<String> {
        let mut lost = Vec::new();
        let has_blocks = trace.sizes.any();
        if has_blocks && !self.blocks {
            lost.push("block names, and with them which prompts share a prefix".to_owned());
        } else if has_blocks && trace.sizes.uniform().is_none() {
            lost.push("blocks of unequal length, and with them which prompts share one".to_owned());
        }
        if trace.records.iter().any(|r| r.session.is_some()) && !self.sessions {
            lost.push("which requests are turns of one session".to_owned());
        }
        if trace.records.iter().any(|r| r.think_ns > 0) && !self.thinking {
            lost.push("think times, other than as gaps between time stamps".to_owned());
        }
        if trace.records.iter().any(|r| r.at_ns % self.step_ns != 0) {
            let step = crate::units::Nanos(self.step_ns);
            lost.push(format!("time stamps, to steps of {step}"));
        }
        lost
    }
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
