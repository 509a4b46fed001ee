//! The process around a service: flags, settings, logs, signals. What `main` of each service is.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser};

use crate::tasks::{install_panic_hook, shutdown_signal};
use crate::{Settings, SettingsArgs, telemetry};

/// How long blocking work may hold up the end of the process.
const LAST_WORK_LIMIT: Duration = Duration::from_secs(1);

/// Flags of a service.
#[derive(Debug, Clone, Default, Args)]
pub struct ServiceArgs {
    /// What every service can be told.
    #[command(flatten)]
    pub settings: SettingsArgs,
    /// End when standard input ends: whoever holds it open owns this process
    #[arg(long)]
    pub tethered: bool,
}

#[derive(Debug, Parser)]
#[command(version)]
struct Command {
    #[command(flatten)]
    service: ServiceArgs,
}

impl ServiceArgs {
    /// Loads the settings and starts logging; gives what a service's `run` takes.
    ///
    /// # Errors
    /// When a setting is wrong or signals cannot be listened to.
    pub fn start(&self) -> anyhow::Result<(Settings, impl Future<Output = ()> + Send + use<>)> {
        let settings = self.settings.load()?.settings;
        telemetry::init_logging(&settings.telemetry)?;
        install_panic_hook();
        Ok((settings, shutdown_signal(self.tethered)?))
    }
}

/// Runs one service as this process: reads flags, serves until told to stop.
pub fn main<F>(
    name: &'static str,
    run: impl FnOnce(Settings, std::pin::Pin<Box<dyn Future<Output = ()> + Send>>) -> F,
) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>>,
{
    let matches = Command::command().name(name).get_matches();
    let command = match Command::from_arg_matches(&matches) {
        Ok(command) => command,
        Err(error) => error.exit(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let served = runtime.context("start the runtime").and_then(|runtime| {
        let served = runtime.block_on(async {
            let (settings, stop) = command.service.start()?;
            run(settings, Box::pin(stop)).await
        });
        runtime.shutdown_timeout(LAST_WORK_LIMIT);
        served
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Logging may not have started: a wrong setting is told on standard error.
            eprintln!("{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
