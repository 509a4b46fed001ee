//! Writes traces, and says what a format cannot hold.

use std::io::{self, Write};

use super::{Format, Trace, formats};

/// Why a trace cannot be written in a format.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Such files are only read.
    #[error("{} is only read: write one of mooncake, bailian, azure, burstgpt, weka, splitwise", .0.describe())]
    ReadOnly(Format),
    /// The trace has no times.
    #[error("the trace has no time stamps, and {} needs them: give --rate", .0.describe())]
    NoTimes(Format),
    /// The format cannot hold all of it.
    #[error("{} cannot hold {}: write all the same with --lossy", .0.describe(), .1.join("; nor "))]
    Lossy(Format, Vec<String>),
}

/// What `format` cannot hold of `trace`.
pub fn losses(trace: &Trace, format: Format) -> Result<Vec<String>, WriteError> {
    if format == Format::Weka || trace.timed {
        return formats::of(format).losses(trace).ok_or(WriteError::ReadOnly(format));
    }
    Err(WriteError::NoTimes(format))
}

/// Refuses a loss unless it is `lossy`; what is lost.
pub fn check(trace: &Trace, format: Format, lossy: bool) -> Result<Vec<String>, WriteError> {
    let lost = losses(trace, format)?;
    if lost.is_empty() || lossy { Ok(lost) } else { Err(WriteError::Lossy(format, lost)) }
}

/// Writes what `format` can hold of `trace`.
pub fn write(trace: &Trace, format: Format, out: &mut dyn Write) -> io::Result<()> {
    formats::of(format).write(trace, out)
}

/// The format to write a changed trace in: its own, or Mooncake where it cannot be written.
pub fn natural(trace: &Trace) -> Format {
    let own = formats::of(trace.format).losses(trace);
    if own.is_some_and(|lost| lost.is_empty()) { trace.format } else { Format::Mooncake }
}
