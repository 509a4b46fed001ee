//! The command line: its commands and their execution.

pub mod calibrate;
pub mod compare;
pub mod exit;
pub mod file;
pub mod null_server;
pub mod report;
pub mod run;
pub mod search;
pub mod trace;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::calibrate::CalibrateArgs;
use crate::run::RunArgs;
pub use compare::CompareArgs;
pub use exit::Ending;
pub use null_server::NullServerArgs;
pub use report::ReportArgs;
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
    /// Command to execute.
    #[command(subcommand)]
    pub command: Command,
}

/// Commands of `loadgen`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Send a load and report on it.
    Run(Box<RunArgs>),
    /// Search the highest rate that meets its SLOs.
    Search(Box<SearchArgs>),
    /// Compare two saved reports of one schedule.
    Compare(CompareArgs),
    /// Render a saved report again.
    Report(ReportArgs),
    /// Work with trace files.
    #[command(subcommand)]
    Trace(TraceCommand),
    /// Measure the load that this machine can generate accurately.
    Calibrate(CalibrateArgs),
    /// Serve an API that computes nothing, for measurements of the generator itself.
    NullServer(NullServerArgs),
}

impl Command {
    /// Returns the number of threads that send and receive.
    pub fn threads(&self) -> usize {
        match self {
            Self::Run(args) => args.sending.threads as usize,
            _ => 1,
        }
    }
}

/// Executes the command. Returns the text for standard output and the ending.
pub async fn execute(cli: Cli) -> Result<(String, Ending)> {
    match cli.command {
        Command::Run(args) => {
            let (stop, stopped) = mpsc::channel(4);
            let mut listener = JoinSet::new();
            listener.spawn(listen_for_stop(stop));
            run::execute(&args, stopped).await
        }
        Command::Search(args) => {
            let (stop, stopped) = mpsc::channel(4);
            let mut listener = JoinSet::new();
            listener.spawn(listen_for_stop(stop));
            search::execute(*args, stopped).await
        }
        Command::Compare(args) => compare::execute(&args),
        Command::Report(args) => report::execute(&args),
        Command::Trace(command) => trace::execute(command),
        Command::Calibrate(args) => {
            let program =
                std::env::current_exe().context("cannot find the path of this program")?;
            calibrate::execute(&args, &program).await
        }
        Command::NullServer(args) => null_server::execute(args).await,
    }
}

/// Sends each Ctrl-C and each SIGTERM as a reason to stop.
async fn listen_for_stop(stop: mpsc::Sender<String>) {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
    loop {
        let reason = tokio::select! {
            Ok(()) = tokio::signal::ctrl_c() => "Ctrl-C",
            Some(()) = terminate.recv() => "SIGTERM",
            else => return,
        };
        if stop.send(reason.to_owned()).await.is_err() {
            return;
        }
    }
}
