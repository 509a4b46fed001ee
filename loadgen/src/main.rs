//! `loadgen`: sends an open-loop load to an OpenAI-compatible server and reports on it.

use std::process::ExitCode;

use clap::Parser;
use loadgen::cli::{Cli, execute, file};
use loadgen::send::clock::SENDER_THREADS;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};

/// Exit status after wrong usage, as clap has it.
const USAGE: u8 = 2;

#[expect(clippy::print_stdout, reason = "the report is the output of this program")]
fn main() -> ExitCode {
    let cli = match file::expand(std::env::args_os().collect()) {
        Ok(words) => Cli::parse_from(words),
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(USAGE);
        }
    };
    allow_open_files();
    let done = match runtime(cli.command.threads()) {
        Ok(runtime) => runtime.block_on(execute(cli)),
        Err(error) => Err(anyhow::Error::new(error).context("cannot start the runtime")),
    };
    match done {
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

/// Number of tasks between two checks of timers and sockets. Small, so that thousands of readable
/// streams delay no send.
const EVENT_INTERVAL: u32 = 16;

/// Builds the runtime. A single thread needs no wake-ups and no hand-overs.
fn runtime(threads: usize) -> std::io::Result<Runtime> {
    let mut builder = match threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    if threads > 1 {
        builder.worker_threads(threads).thread_name(SENDER_THREADS);
    }
    builder.event_interval(EVENT_INTERVAL).enable_all().build()
}

/// Raises the limit of open files to the hard limit of the system.
fn allow_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if limit.current != all.current
        && let Err(error) = setrlimit(Resource::Nofile, all)
    {
        eprintln!(
            "warning: cannot raise the limit of open files from {:?}: {error}",
            limit.current
        );
    }
}
