//! `loadgen`: sends an open-loop load to an OpenAI-compatible server and reports on it.

use std::process::ExitCode;

use clap::Parser;
use loadgen::cli::Cli;
use loadgen::session::execute;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "the report is the output of this program")]
async fn main() -> ExitCode {
    match execute(Cli::parse()).await {
        Ok((text, ending)) => {
            print!("{text}");
            ExitCode::from(ending.exit_code())
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(1)
        }
    }
}
