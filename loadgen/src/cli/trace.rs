//! `loadgen trace`: what can be done with trace files.

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;

use crate::report::table;
use crate::session::Ending;
use crate::trace::stats::stats;
use crate::trace::{self, Format};

/// What can be done with traces.
#[derive(Debug, Subcommand)]
pub enum TraceCommand {
    /// Print the statistics of a trace.
    Inspect {
        /// The trace file.
        file: PathBuf,
        /// Its format; found out from its first line unless given.
        #[arg(long)]
        format: Option<Format>,
        /// Tokens in a block of a Mooncake trace.
        #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
        trace_block: u32,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Carries out the command; the text for standard output and how it ended.
pub fn execute(command: TraceCommand) -> Result<(String, Ending)> {
    match command {
        TraceCommand::Inspect { file, format, trace_block, json } => {
            let stats = stats(&trace::read(&file, format, trace_block)?);
            let text = if json {
                serde_json::to_string_pretty(&stats)? + "\n"
            } else {
                table::render_stats(&stats)
            };
            Ok((text, Ending::Good))
        }
    }
}
