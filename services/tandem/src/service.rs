//! `tandem gateway`, `prefill`, `decode`, `kvstore`: one service in this process.

use chassis::service::ServiceArgs;

/// The kind of a service.
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

/// Runs it until it is asked to stop.
pub(crate) async fn run(kind: ServiceKind, args: ServiceArgs) -> anyhow::Result<()> {
    let (settings, stop) = args.start()?;
    match kind {
        ServiceKind::Gateway => gateway::run(settings, stop).await,
        ServiceKind::Prefill => prefill::run(settings, stop).await,
        ServiceKind::Decode => decode::run(settings, stop).await,
        ServiceKind::Kvstore => kvstore::run(settings, stop).await,
    }
}
