//! `loadgen trace`: prints, converts and edits trace files.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use traces::edit::{cut, dequantize, scale, thin};
use traces::quantum::Dequantize;
use traces::stats::stats;
use traces::units::{Nanos, Window};
use traces::{Format, ReadOptions, Trace, summary, write};

use super::exit::Ending;
use crate::plan::vocabulary;

/// Commands for traces.
#[derive(Debug, Subcommand)]
pub enum TraceCommand {
    /// Print the statistics of a trace.
    Inspect {
        /// Trace to read.
        #[command(flatten)]
        from: SourceArgs,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Write a trace in another format.
    Convert {
        /// Trace to read.
        #[command(flatten)]
        from: SourceArgs,
        /// File to write.
        #[command(flatten)]
        into: TargetArgs,
        /// Format to write.
        #[arg(long, value_enum)]
        to: Format,
    },
    /// Keep a span of time.
    Cut {
        /// Trace to read.
        #[command(flatten)]
        from: SourceArgs,
        /// File to write.
        #[command(flatten)]
        into: TargetArgs,
        /// Start of the span.
        #[arg(long = "from", default_value = "0s")]
        start: Nanos,
        /// End of the span. Default: the end of the trace.
        #[arg(long = "to")]
        end: Option<Nanos>,
    },
    /// Divide lengths and block sizes. Prompts share the same blocks afterwards.
    Scale {
        /// Trace to read.
        #[command(flatten)]
        from: SourceArgs,
        /// File to write.
        #[command(flatten)]
        into: TargetArgs,
        /// Divisor.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        by: u32,
    },
    /// Keep a share of the sessions or prefix trees, each of them whole.
    Thin {
        /// Trace to read.
        #[command(flatten)]
        from: SourceArgs,
        /// File to write.
        #[command(flatten)]
        into: TargetArgs,
        /// Keep whole sessions, or trees of prompts with a common prefix (the only method).
        #[arg(long, default_value_t = true, num_args = 0)]
        by_session: bool,
        /// Share to keep, up to 1.
        #[arg(long)]
        keep: f64,
    },
    /// Spread arrivals that share a coarse time stamp.
    Dequantize {
        /// Trace to read.
        #[command(flatten)]
        from: SourceArgs,
        /// File to write.
        #[command(flatten)]
        into: TargetArgs,
        /// Method.
        #[arg(long, value_enum, default_value = "uniform")]
        how: Dequantize,
    },
}

/// A trace to read.
#[derive(Debug, Args)]
pub struct SourceArgs {
    /// Trace to read: a file or a folder.
    path: PathBuf,
    /// Format of the trace. Default: detected from its content.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Tokens per block of a trace that does not state it. Default: the publisher's size.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    trace_block: Option<u32>,
    /// Tokenizer for a trace of texts (GGUF or tokenizer.json).
    #[arg(long, value_name = "FILE")]
    vocab_tokenizer: Option<PathBuf>,
    /// Window, FROM..TO, that a generator draws requests for.
    #[arg(long)]
    window: Option<Window>,
    /// Seed of every random choice.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Refuse a trace with oddities, which are otherwise counted.
    #[arg(long)]
    strict: bool,
}

/// A trace to write.
#[derive(Debug, Args)]
pub struct TargetArgs {
    /// File to write. Default: standard output.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write even if the format cannot represent the whole trace.
    #[arg(long)]
    lossy: bool,
}

/// Executes the command. Returns the text for standard output and the ending.
pub fn execute(command: TraceCommand) -> Result<(String, Ending)> {
    let text = match command {
        TraceCommand::Inspect { from, json } => inspect(&from, json)?,
        TraceCommand::Convert { from, into, to } => {
            let trace = from.read()?;
            into.write(&trace, to)?
        }
        TraceCommand::Cut { from, into, start, end } => {
            let mut trace = from.read()?;
            if end.is_some_and(|end| end <= start) {
                bail!("--to is not after --from {start}");
            }
            let whole = stats(&trace).reuse;
            cut(&mut trace, Window { from: start, to: end })?;
            if let (Some(whole), Some(piece)) = (whole, stats(&trace).reuse) {
                note(&format!(
                    "the piece allows a token hit rate of {:.4}, the whole trace one of {:.4}",
                    piece.token_hit, whole.token_hit
                ));
            }
            into.write_same(&trace)?
        }
        TraceCommand::Scale { from, into, by } => {
            let mut trace = from.read()?;
            scale(&mut trace, by)?;
            into.write_same(&trace)?
        }
        TraceCommand::Thin { from, into, by_session: _, keep } => {
            let mut trace = from.read()?;
            let thinned = thin(&mut trace, keep, from.seed)?;
            note(&format!("kept {} of {} sessions or prefix trees", thinned.kept, thinned.groups));
            into.write_same(&trace)?
        }
        TraceCommand::Dequantize { from, into, how } => {
            if how == Dequantize::None {
                bail!("--how none leaves the trace as it is");
            }
            let mut trace = from.read()?;
            dequantize(&mut trace, how, from.seed)?;
            let format = write::native_format(&trace);
            write::round_times(&mut trace, format);
            into.write_same(&trace)?
        }
    };
    Ok((text, Ending::Good))
}

/// Prints a note on standard error, beside the file.
fn note(text: &str) {
    eprintln!("note: {text}");
}

fn inspect(from: &SourceArgs, json: bool) -> Result<String> {
    let trace = from.open()?;
    let stats = stats(&trace);
    if json {
        return Ok(serde_json::to_string_pretty(&summary::json(&stats))? + "\n");
    }
    Ok(summary::tables(&stats))
}

impl SourceArgs {
    /// Reads the trace, and prints what is to be known of it.
    fn read(&self) -> Result<Trace> {
        let trace = self.open()?;
        trace.notes.iter().for_each(|text| note(text));
        trace.oddities.describe().iter().for_each(|text| note(text));
        Ok(trace)
    }

    fn open(&self) -> Result<Trace> {
        let options = ReadOptions {
            format: self.format,
            block_tokens: self.trace_block,
            vocabulary: self.vocab_tokenizer.as_deref().map(vocabulary::open).transpose()?,
            window: self.window,
            seed: self.seed,
            strict: self.strict,
        };
        let mut trace = traces::read(&self.path, &options)?;
        note(&format!("{}: {}", self.path.display(), trace.format.describe()));
        if let Some(window) = self.window.filter(|_| !trace.generated) {
            cut(&mut trace, window)?;
        }
        Ok(trace)
    }
}

impl TargetArgs {
    /// Writes an edited trace in its own format, or in Mooncake's if that is only read.
    fn write_same(&self, trace: &Trace) -> Result<String> {
        self.write(trace, write::native_format(trace))
    }

    fn write(&self, trace: &Trace, format: Format) -> Result<String> {
        for lost in write::check(trace, format, self.lossy)? {
            note(&format!("lost: {lost}"));
        }
        let mut out = Vec::new();
        let Some(path) = &self.output else {
            write::write(trace, format, &mut out)?;
            return Ok(String::from_utf8(out)?);
        };
        let named = || format!("cannot write {}", path.display());
        let mut file = BufWriter::new(File::create(path).with_context(named)?);
        write::write(trace, format, &mut file).and_then(|()| file.flush()).with_context(named)?;
        let block = trace.sizes.uniform().map_or(String::new(), |n| format!(", blocks of {n}"));
        note(&format!(
            "{} requests as {}{block}: {}",
            trace.records.len(),
            format.describe(),
            path.display()
        ));
        Ok(String::new())
    }
}
