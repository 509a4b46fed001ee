//! The command line.

pub mod calibrate;
pub mod compare;
pub mod files;
pub mod load;
pub mod null_server;
pub mod report;
pub mod reporting;
pub mod run;
pub mod search;
pub mod trace;

use clap::{Parser, Subcommand};

pub use calibrate::CalibrateArgs;
pub use compare::CompareArgs;
pub use files::PageArgs;
pub use load::{LoadArgs, PromptAs, ReplayArgs};
pub use null_server::NullServerArgs;
pub use report::ReportArgs;
pub use reporting::ReportingArgs;
pub use run::{RunArgs, SendingArgs, TargetArgs};
pub use search::SearchArgs;
pub use trace::TraceCommand;

/// Open-loop load for servers that speak the OpenAI API.
#[derive(Debug, Parser)]
#[command(
    name = "loadgen",
    version,
    after_help = "Exit status: 0 valid run, 1 error, 2 wrong usage, 3 INVALID run, 4 no request \
                  completed, 5 an SLO or a gate was missed, 130 cut short by Ctrl-C."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Send a load and report on it.
    Run(Box<RunArgs>),
    /// Search the highest rate that keeps its SLOs.
    Search(Box<SearchArgs>),
    /// Compare two saved reports of one schedule.
    Compare(CompareArgs),
    /// Render a saved report again.
    Report(ReportArgs),
    /// Work with trace files.
    #[command(subcommand)]
    Trace(TraceCommand),
    /// Find out which load this machine's generator can be trusted with.
    Calibrate(CalibrateArgs),
    /// Serve an API that makes no tokens and costs next to nothing.
    NullServer(NullServerArgs),
}

impl Command {
    /// How many threads send and receive.
    pub fn threads(&self) -> usize {
        match self {
            Self::Run(args) => args.sending.threads as usize,
            _ => 1,
        }
    }
}
