//! Request traces: nine published formats, read as published, changed without breaking what a
//! replay depends on, and measured.
//!
//! ```no_run
//! # fn main() -> Result<(), traces::TraceError> {
//! let path = std::path::Path::new("conversation_trace.jsonl");
//! let trace = traces::read(path, &traces::ReadOptions::default())?;
//! println!("{}", traces::summary::tables(&traces::stats::stats(&trace)));
//! # Ok(())
//! # }
//! ```
//!
//! [`edit`] cuts, scales, thins and spreads a trace; [`shape`] makes the load of one run of it;
//! [`mod@write`] saves it in another format. [`prefix`] holds the cache models behind the reuse
//! figures, [`gaps`] and [`rate`] the arrival processes that generated traces and synthetic loads
//! share.

mod columns;
mod documents;
mod draft;
pub mod edit;
mod error;
mod fields;
mod formats;
pub mod gaps;
mod input;
mod oddity;
pub mod prefix;
pub mod quantile;
pub mod quantum;
pub mod random;
pub mod rate;
mod sample;
pub mod shape;
pub mod stats;
pub mod summary;
pub mod text;
mod trace;
pub mod units;
mod vocabulary;
pub mod write;

use std::path::Path;

pub use draft::{RECORDS_MAX, TOKENS_MAX};
pub use error::{Problem, TraceError};
pub use formats::ReadOptions;
pub use oddity::{Oddities, Oddity};
pub use trace::{BlockSizes, Format, Record, Trace};
pub use vocabulary::{TokenizerError, Vocabulary};

/// Reads the trace at `path`, a file or a folder.
pub fn read(path: &Path, options: &ReadOptions) -> Result<Trace, TraceError> {
    let format = match options.format {
        Some(format) => format,
        None => formats::detect(path)?,
    };
    formats::of(format).read(path, options)?.finish(path, format)
}
