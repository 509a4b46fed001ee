//! `loadgen search`: searches the highest rate that meets its SLOs.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, Parser};
use tokio::sync::mpsc;
use traces::units::Nanos;

use super::exit::Ending;
use crate::plan::args::{LoadArgs, ReplayArgs};
use crate::report::output;
use crate::report::render::{search as search_table, table};
use crate::report::search::{Outcome, Requirement, Space};
use crate::run::{PageArgs, ReportingArgs, RunArgs, SendingArgs, TargetArgs};
use crate::search::goal::Bound;
use crate::search::shell::Search;
use crate::watch::progress::ProgressMode;

/// Flags of a search. It starts at `--rate`, or at a trace's own rate. Other rates replay the trace
/// faster or slower.
#[derive(Debug, Args)]
pub struct SearchArgs {
    /// The server.
    #[command(flatten)]
    pub target: TargetArgs,
    /// The requests.
    #[command(flatten)]
    pub load: LoadArgs,
    /// A trace to replay.
    #[command(flatten)]
    pub replay: ReplayArgs,
    /// Sending of the requests.
    #[command(flatten)]
    pub sending: SendingArgs,
    /// Search space and requirements.
    #[command(flatten)]
    pub looking: LookingArgs,
}

/// Search space and requirements.
#[derive(Debug, Args)]
#[command(next_help_heading = "Search")]
pub struct LookingArgs {
    /// SLO to meet: a percentile, ttft_p99=500ms, or a bound for goodput, tpot=50ms. May be
    /// repeated.
    #[arg(long = "slo", value_name = "SLO", required = true)]
    pub slos: Vec<Bound>,
    /// Share of the requests that must meet all bounds together. Default: 0.99 for bounds without a
    /// percentile.
    #[arg(long)]
    pub goodput: Option<f64>,
    /// Lowest rate to try, in requests per second.
    #[arg(long, default_value_t = 0.1)]
    pub lowest: f64,
    /// Highest rate to try, in requests per second.
    #[arg(long, default_value_t = 10_000.0)]
    pub highest: f64,
    /// Distance of held and missed rates at which the search ends, as a share of the rate.
    #[arg(long, default_value_t = 0.05)]
    pub precision: f64,
    /// Smallest length of a probe.
    #[arg(long, default_value = "30s")]
    pub probe: Nanos,
    /// Largest length of a probe, for enough requests for the percentile.
    #[arg(long, default_value = "2m")]
    pub longest: Nanos,
    /// Rest between probes.
    #[arg(long, default_value = "2s")]
    pub settle: Nanos,
    /// Largest number of probes.
    #[arg(long, default_value_t = 30)]
    pub probes: usize,
    /// Largest p99 lag of a valid run. Default: the larger of 1 ms and 1 % of the median TTFT.
    #[arg(long)]
    pub lag_limit: Option<Nanos>,
    /// Write the search, and its run at the highest held rate, as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Files for people.
    #[command(flatten)]
    pub page: PageArgs,
}

/// Executes the command. Returns the text for standard output and the ending.
pub async fn execute(args: SearchArgs, stop: mpsc::Receiver<String>) -> Result<(String, Ending)> {
    let SearchArgs { target, load, replay, sending, looking } = args;
    let space = space(&looking, load.rate)?;
    if load.rate.is_none() && replay.trace.is_none() {
        bail!("a search needs --rate to begin with, or --trace: it moves the rate of an open loop");
    }
    let mut reporting = usual_reporting();
    reporting.slos = looking.slos.iter().map(|bound| bound.slo).collect();
    reporting.slos.dedup();
    reporting.lag_limit = looking.lag_limit;
    reporting.progress = ProgressMode::None;
    let search = Search {
        run: RunArgs { target, load, replay, sending, reporting },
        asked: Requirement::all(&looking.slos, looking.goodput),
        space,
        probe: looking.probe,
        longest: looking.longest,
        settle: looking.settle,
    };
    let done = search.run(stop).await?;
    let files = looking.page.files(looking.json.as_deref(), None);
    output::write_all(&files, &done.report)?;
    let Some(found) = &done.report.search else { bail!("the search left no result") };
    let ending = match &found.outcome {
        _ if done.stopped => Ending::CutShort,
        Outcome::Found { .. } | Outcome::HeldAtHighest { .. } => Ending::Good,
        Outcome::MissedAtLowest { .. } => Ending::Missed,
        Outcome::GeneratorLimited { .. } | Outcome::OutOfProbes { .. } => Ending::Invalid,
    };
    Ok((format!("{}\n{}", table::render(&done.report), search_table::render(found)), ending))
}

fn space(looking: &LookingArgs, start: Option<f64>) -> Result<Space> {
    let &LookingArgs { lowest, highest, precision, probes, goodput, .. } = looking;
    // A trace starts at its own rate, which is not known yet.
    let start = start.unwrap_or(lowest);
    if !(lowest > 0.0 && lowest < highest && highest.is_finite()) {
        bail!("--lowest {lowest} must be positive and below --highest {highest}");
    }
    if !(lowest..=highest).contains(&start) {
        bail!("--rate {start} does not lie between --lowest {lowest} and --highest {highest}");
    }
    if !(0.001..=1.0).contains(&precision) {
        bail!("--precision {precision} must lie between 0.001 and 1");
    }
    if goodput.is_some_and(|part| !(part > 0.0 && part < 1.0)) {
        bail!("--goodput must lie between 0 and 1: all of the requests can never be shown");
    }
    Ok(Space { start, lowest, highest, precision, probes })
}

/// Returns the default flags of a report.
fn usual_reporting() -> ReportingArgs {
    #[derive(Parser)]
    struct Usual {
        #[command(flatten)]
        reporting: ReportingArgs,
    }
    Usual::parse_from(["search"]).reporting
}
