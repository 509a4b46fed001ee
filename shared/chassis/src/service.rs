//! The process around a service: flags, settings, logs, signals.

use clap::Args;

use crate::tasks::{install_panic_hook, shutdown_signal};
use crate::{Effective, Settings, SettingsArgs, telemetry};

/// Flags of a service.
#[derive(Debug, Clone, Default, Args)]
pub struct ServiceArgs {
    /// Settings.
    #[command(flatten)]
    pub settings: SettingsArgs,
    /// End when standard input ends: the process that holds it open owns this one
    #[arg(long)]
    pub tethered: bool,
}

impl ServiceArgs {
    /// Loads the settings and starts logging. Returns the arguments of a service's `run`.
    ///
    /// # Errors
    /// When a setting is wrong or signals cannot be listened to.
    pub fn start(&self) -> anyhow::Result<(Settings, impl Future<Output = ()> + Send + use<>)> {
        let Effective { settings, notices, .. } = self.settings.load()?;
        telemetry::init_logging(&settings.telemetry)?;
        notices.log();
        install_panic_hook();
        Ok((settings, shutdown_signal(self.tethered)?))
    }
}
