//! `loadgen report`: saved reports, rendered again.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use super::exit::Ending;
use crate::report::render::{merged, table};
use crate::report::{output, saved};
use crate::run::PageArgs;

/// Which report, and what to make of it.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Reports that were written with --json; of several, the percentiles of all their requests are
    /// printed.
    #[arg(required = true)]
    pub reports: Vec<PathBuf>,
    /// Write one CSV row for each measured request.
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Where it is written for people.
    #[command(flatten)]
    pub page: PageArgs,
}

/// Carries out the command; the text for standard output and how the run had ended.
pub fn execute(args: &ReportArgs) -> Result<(String, Ending)> {
    let reports = args.reports.iter().map(|path| saved::read(path)).collect::<Result<Vec<_>>>()?;
    let [report] = reports.as_slice() else {
        if args.page.html.is_some() || args.page.markdown.is_some() || args.csv.is_some() {
            bail!("--html, --markdown and --csv show one report, {} were given", reports.len());
        }
        return Ok((merged::render(&reports)?, Ending::Good));
    };
    let files = args.page.files(None, args.csv.as_deref());
    output::write_all(&files, report)?;
    Ok((table::render(report), Ending::of(report)))
}
