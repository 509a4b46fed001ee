//! Writes traces, and says what a format cannot hold.

use std::io::{self, Write};

use super::formats;
use super::trace::{Format, Trace};

/// Why a trace cannot be written in a format.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Such files are only read.
    #[error("{} is only read: write mooncake, bailian, azure, burstgpt, weka or splitwise", name(*.0))]
    ReadOnly(Format),
    /// The trace has no times.
    #[error("the trace has no time stamps, and {} needs them: convert it to weka", name(*.0))]
    NoTimes(Format),
    /// The format cannot hold all of it.
    #[error("{} cannot hold: {}; --lossy writes it all the same", name(*.0), .1.join("; "))]
    Lossy(Format, Vec<String>),
}

/// The format's name alone.
fn name(format: Format) -> &'static str {
    let about = format.describe();
    about.split_once(',').map_or(about, |(name, _)| name)
}

/// Refuses what `format` cannot hold of `trace` unless it may be `lossy`; what is lost.
pub fn check(trace: &Trace, format: Format, lossy: bool) -> Result<Vec<String>, WriteError> {
    let holds = formats::of(format).holds().ok_or(WriteError::ReadOnly(format))?;
    if !trace.timed && holds.clock {
        return Err(WriteError::NoTimes(format));
    }
    let lost = holds.losses(trace);
    if lost.is_empty() || lossy { Ok(lost) } else { Err(WriteError::Lossy(format, lost)) }
}

/// Writes what `format` can hold of `trace`.
pub fn write(trace: &Trace, format: Format, out: &mut dyn Write) -> io::Result<()> {
    formats::of(format).write(trace, out)
}

/// The format to write a changed trace in: its own, or Mooncake where that is only read.
pub fn natural(trace: &Trace) -> Format {
    if formats::of(trace.format).holds().is_some() { trace.format } else { Format::Mooncake }
}

/// Moves time stamps that were made up to the steps of `format`, back to the one before.
pub fn to_steps(trace: &mut Trace, format: Format) {
    let step_ns = formats::of(format).holds().map_or(1, |holds| holds.step_ns);
    trace.records.iter_mut().for_each(|record| record.at_ns -= record.at_ns % step_ns);
}
