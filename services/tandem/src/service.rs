//! `tandem gateway`, `prefill`, `decode`, `kvstore`: one service in this process.

use chassis::SettingsArgs;
use chassis::tasks::{install_panic_hook, shutdown_signal};

/// Flags of a service.
#[derive(Debug, clap::Args)]
pub(crate) struct ServiceArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// End when standard input ends: whoever holds it open owns this process
    #[arg(long)]
    tethered: bool,
}

/// Which service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServiceKind {
    /// HTTP.
    Gateway,
    /// Computes prompts.
    Prefill,
    /// Generates.
    Decode,
    /// Keeps computed prefixes.
    Kvstore,
}

/// Runs it until told to stop.
pub(crate) async fn run(kind: ServiceKind, args: ServiceArgs) -> anyhow::Result<()> {
    let settings = args.settings.load()?.settings;
    chassis::telemetry::init_logging(&settings.telemetry)?;
    install_panic_hook();
    let stop = shutdown_signal(args.tethered)?;
    match kind {
        ServiceKind::Gateway => gateway::run(settings, stop).await,
        ServiceKind::Prefill => prefill::run(settings, stop).await,
        ServiceKind::Decode => decode::run(settings, stop).await,
        ServiceKind::Kvstore => kvstore::run(settings, stop).await,
    }
}
