//! Writing of traces, and the loss that a format implies.

use std::io::{self, Write};

use super::formats;
use super::trace::{Format, Trace};

/// A trace that cannot be written in a format.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The format is only read.
    #[error("{} is only read: write mooncake, bailian, azure, burstgpt, weka or splitwise", name(*.0))]
    ReadOnly(Format),
    /// The format needs times and the trace has none.
    #[error("the trace has no time stamps, and {} needs them: convert it to weka", name(*.0))]
    NoTimes(Format),
    /// The format cannot represent the whole trace.
    #[error("{} cannot hold: {}; --lossy writes it all the same", name(*.0), .1.join("; "))]
    Lossy(Format, Vec<String>),
}

/// Returns the name of the format without its unit.
fn name(format: Format) -> &'static str {
    let about = format.describe();
    about.split_once(',').map_or(about, |(name, _)| name)
}

/// Lists what `format` cannot represent of `trace`. Fails if that is anything, unless `lossy`.
pub fn check(trace: &Trace, format: Format, lossy: bool) -> Result<Vec<String>, WriteError> {
    let capabilities = formats::of(format).capabilities().ok_or(WriteError::ReadOnly(format))?;
    if !trace.timed && capabilities.clock {
        return Err(WriteError::NoTimes(format));
    }
    let lost = capabilities.losses(trace);
    if lost.is_empty() || lossy { Ok(lost) } else { Err(WriteError::Lossy(format, lost)) }
}

/// Writes as much of `trace` as `format` can represent.
pub fn write(trace: &Trace, format: Format, out: &mut dyn Write) -> io::Result<()> {
    formats::of(format).write(trace, out)
}

/// Returns the format to write an edited trace in: its own, or Mooncake if that is only read.
pub fn native_format(trace: &Trace) -> Format {
    if formats::of(trace.format).capabilities().is_some() { trace.format } else { Format::Mooncake }
}

/// Rounds synthetic time stamps down to the resolution of `format`.
pub fn round_times(trace: &mut Trace, format: Format) {
    let step_ns = formats::of(format).capabilities().map_or(1, |capabilities| capabilities.step_ns);
    trace.records.iter_mut().for_each(|record| record.at_ns -= record.at_ns % step_ns);
}
