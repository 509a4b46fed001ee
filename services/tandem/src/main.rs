//! The command that users type: everything on one machine, and the tools around it.

mod bench;
mod chat;
mod cli;
mod config;
mod console;
mod doctor;
mod fetch_model;
mod healthcheck;
mod http;
mod metrics;
mod service;
mod status;
mod trace;
mod up;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;

/// The time that work without interruption, such as a download, may delay the end.
const LAST_WORK_LIMIT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match start(cli) {
        Ok(code) => code,
        Err(error) => {
            console::complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn start(cli: cli::Cli) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let outcome = runtime.block_on(cli.run());
    runtime.shutdown_timeout(LAST_WORK_LIMIT);
    outcome
}
