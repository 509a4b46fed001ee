//! `tandem-bench`: measures the engine, the path around it, the hand-over of KV blocks, and tracing.
//!
//! `tandem bench` starts this program. The system under test is a real one: `tandem up`, of the
//! `tandem` that lies beside this program.

mod console;
mod engine;
mod figures;
mod fleet;
mod handover;
mod load;
mod path;
mod tracing;
mod usage;

use std::path::PathBuf;
use std::process::ExitCode;

use chassis::SettingsArgs;
use clap::Parser;

/// Measures the engine of Tandem, or what is around it, on this machine.
#[derive(Debug, Parser)]
#[command(name = "tandem-bench", version)]
struct Args {
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    engine: engine::EngineArgs,
    /// Measure the path around the engines instead: gateway, NATS, workers, store
    #[arg(long)]
    path: bool,
    /// Measure the hand-over of KV blocks instead, and the reuse of a stored prompt
    #[arg(long, conflicts_with = "path")]
    handover: bool,
    /// Measure what tracing every request costs instead
    #[arg(long, conflicts_with_all = ["path", "handover"])]
    tracing: bool,
}

/// Arguments of every measurement.
#[derive(Debug, clap::Args)]
struct CommonArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Write the figures as JSON, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Rounds over all cases; medians are reported
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Fewer and shorter cases
    #[arg(long)]
    quick: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console::note(&format!("tandem-bench: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    if args.path {
        return path::run(args.common).await;
    }
    if args.tracing {
        return tracing::run(args.common).await;
    }
    if args.handover {
        return handover::run(args.common).await;
    }
    engine::run(args.common, args.engine).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
    }
}
