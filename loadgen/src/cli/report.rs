//! `loadgen report`: renders saved reports again.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use super::exit::Ending;
use crate::report::render::{merged, table};
use crate::report::{output, saved};
use crate::run::PageArgs;

/// Reports, and the files to write.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Reports written with --json. For several, the percentiles of all their requests are printed.
    #[arg(required = true)]
    pub reports: Vec<PathBuf>,
    /// Write one CSV row per measured request.
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Files for people.
    #[command(flatten)]
    pub page: PageArgs,
}

/// Executes the command. Returns the text for standard output and the ending of the run.
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
