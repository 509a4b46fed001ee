//! `tandem fetch-model`: the default model into a directory, or a model of a hub into the hub's
//! cache. `tandem up` gets its model by the same functions.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use provision::hub::{self, HubEvent, HubOptions, HubRef, Tenths};

use crate::console;

const BAR: &str = "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} ({eta})";

/// The model, and its directory.
#[derive(Debug, clap::Args)]
pub(crate) struct FetchModelArgs {
    /// A model on a Hugging Face hub, which goes into the hub's own cache: `hf:owner/repo[:file]`
    #[arg(long, value_name = "HF")]
    model: Option<HubRef>,
    /// Directory that receives the default model
    #[arg(long, value_name = "DIR", required_unless_present = "model", conflicts_with = "model")]
    to: Option<PathBuf>,
}

/// Fetches and checks the model, unless it is there already, and prints its path.
pub(crate) async fn run(args: FetchModelArgs) -> anyhow::Result<()> {
    let fetch = tokio::task::spawn_blocking(move || match (&args.model, &args.to) {
        (Some(reference), _) => from_hub(reference),
        (None, folder) => default_into(folder.as_deref().unwrap_or(Path::new("."))),
    });
    // Ctrl-C ends the process; what has arrived is used by the next attempt.
    let path = tokio::select! {
        path = fetch => path.context("fetch the model")??,
        () = chassis::tasks::shutdown_signal(false)? => anyhow::bail!("interrupted"),
    };
    console::line(&path.display().to_string());
    Ok(())
}

/// The cache has a directory per kind of file; here the file lies in `folder` itself.
fn default_into(folder: &Path) -> anyhow::Result<PathBuf> {
    let pin = provision::pins::SMOLLM2;
    let name = pin.target.rsplit('/').next().unwrap_or(pin.target);
    let pin = provision::pins::Pin { target: name, ..pin };
    Ok(provision::Cache::at(folder).obtain(&pin, &console::note)?)
}

/// The path to open for the model that `path` names: fetched if it is on a hub. Blocks.
pub(crate) fn local(path: &Path) -> anyhow::Result<PathBuf> {
    match HubRef::from_path(path) {
        Some(reference) => from_hub(&reference?),
        None => Ok(path.to_path_buf()),
    }
}

fn from_hub(reference: &HubRef) -> anyhow::Result<PathBuf> {
    let mut progress = Progress::new();
    let fetched =
        hub::fetch(reference, &HubOptions::from_env(), &mut |event| progress.show(&event));
    progress.end();
    Ok(fetched?)
}

/// Progress on standard error: a bar on a terminal, a line for every tenth elsewhere.
struct Progress {
    bar: Option<ProgressBar>,
    lines: Tenths,
}

impl Progress {
    fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            if let Ok(style) = ProgressStyle::with_template(BAR) {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { bar, lines: Tenths::default() }
    }

    fn show(&mut self, event: &HubEvent) {
        match (&self.bar, event) {
            (Some(bar), HubEvent::Bytes { file, done, total }) => {
                bar.set_length(*total);
                bar.set_position(*done);
                bar.set_message(file.clone());
            }
            (Some(bar), HubEvent::Note(note)) => bar.println(note),
            (None, event) => {
                if let Some(line) = self.lines.line(event) {
                    console::note(&line);
                }
            }
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
