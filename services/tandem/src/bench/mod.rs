//! `tandem bench`: measures the engine, the path around it, the hand-over of KV blocks, and tracing.

mod engine;
mod figures;
mod fleet;
mod handover;
mod path;
mod tracing;
mod usage;

use std::path::PathBuf;

use chassis::SettingsArgs;

/// What to measure; the engine when nothing else is asked for.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
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

/// What every measurement understands.
#[derive(Debug, clap::Args)]
pub(crate) struct CommonArgs {
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

/// Measures and prints.
pub(crate) async fn run(args: BenchArgs) -> anyhow::Result<()> {
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
