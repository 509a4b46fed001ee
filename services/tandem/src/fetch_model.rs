//! `tandem fetch-model`: the default model into a directory of one's choice.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::console;

/// Where the model goes.
#[derive(Debug, clap::Args)]
pub(crate) struct FetchModelArgs {
    /// Directory that receives the file
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
}

/// Fetches and checks the model, unless it is there already, and prints its path.
pub(crate) async fn run(args: FetchModelArgs) -> anyhow::Result<()> {
    let fetch = tokio::task::spawn_blocking(move || fetch(&args.to));
    let path = fetch.await.context("fetch the model")??;
    console::line(&path.display().to_string());
    Ok(())
}

/// The cache has a directory per kind of file; here the file lies in `folder` itself.
fn fetch(folder: &Path) -> anyhow::Result<PathBuf> {
    let pin = provision::pins::SMOLLM2;
    let name = pin.target.rsplit('/').next().unwrap_or(pin.target);
    let pin = provision::pins::Pin { target: name, ..pin };
    Ok(provision::Cache::at(folder).obtain(&pin, &console::note)?)
}
