//! `tandem bench`: tokens per second of prefill and decode.

use super::CommonArgs;

/// Cases and peers.
#[derive(Debug, clap::Args)]
pub(crate) struct EngineArgs {}

/// Measures the engine.
pub(crate) async fn run(common: CommonArgs, _args: EngineArgs) -> anyhow::Result<()> {
    let settings = common.settings.load()?.settings;
    anyhow::bail!("no engine case is known for device {}", settings.device)
}
