//! Flags of a report: the evaluation of a run and the files to write.

use std::path::PathBuf;

use clap::Args;
use traces::units::Nanos;

use super::files::PageArgs;
use crate::measure::windows::Warmup;
use crate::report::output::Files;
use crate::send::slo::Slo;
use crate::watch::progress::ProgressMode;

/// Evaluation and report.
#[derive(Debug, Args)]
#[command(next_help_heading = "Report")]
pub struct ReportingArgs {
    /// Bound of a good request: ttft=500ms, tpot=50ms, e2e=5s. May be repeated.
    #[arg(long = "slo", value_name = "SLO")]
    pub slos: Vec<Slo>,
    /// Largest p99 lag of a valid run. Default: the larger of 1 ms and 1 % of the median TTFT.
    #[arg(long)]
    pub lag_limit: Option<Nanos>,
    /// Start to leave out: none, auto (MSER-5), a number of requests, or a time.
    #[arg(long, default_value = "none")]
    pub warmup: Warmup,
    /// Block size of the server's prefix cache, for the ideal hit rate.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    pub server_block: u32,
    /// Number of slowest requests to list.
    #[arg(long, default_value_t = 5)]
    pub slowest: usize,
    /// Write the report as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write one JSON line per request.
    #[arg(long, value_name = "FILE")]
    pub jsonl: Option<PathBuf>,
    /// Write one CSV row per measured request.
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Files for people.
    #[command(flatten)]
    pub page: PageArgs,
    /// Write the plan, one JSON line per request, before it is run.
    #[arg(long, value_name = "FILE")]
    pub emit_schedule: Option<PathBuf>,
    /// Form of the progress display.
    #[arg(long, value_enum, default_value = "auto")]
    pub progress: ProgressMode,
}

impl ReportingArgs {
    /// Returns the files of the report itself.
    pub fn files(&self) -> Files<'_> {
        self.page.files(self.json.as_deref(), self.csv.as_deref())
    }
}
