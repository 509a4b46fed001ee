//! `loadgen run`: sends a load and reports on it.

use std::sync::Arc;

use anyhow::Result;
use tokio::sync::mpsc;

use super::exit::Ending;
use crate::report::output::{write_all, write_file};
use crate::report::render::{lines, table};
use crate::run::{Measurement, RunArgs, measure};
use crate::send::live::Live;

/// Makes a load, sends it and reports on it. The first message in `stop` ends the sending, the
/// second one cancels the requests in flight.
pub async fn execute(args: &RunArgs, stop: mpsc::Receiver<String>) -> Result<(String, Ending)> {
    let live = Arc::new(Live::new(args.reporting.slos.clone()));
    let Measurement { plan, outcome, report } = measure(args, live, stop).await?;
    write_all(&args.reporting.files(), &report)?;
    if let Some(path) = &args.reporting.jsonl {
        write_file(path, |out| lines::write(out, &plan, &outcome))?;
    }
    Ok((table::render(&report), Ending::of(&report)))
}
