//! Prefill worker: computes prompts, stores their KV blocks, sends first tokens.

use chassis::Settings;
use protocol::Role;

/// Returns every instrument of such a worker, for METRICS.md.
pub fn instruments() -> chassis::metrics::Registry {
    engine::worker::instruments(Role::Prefill)
}

/// Serves until `stop` resolves, then finishes the running requests.
///
/// # Errors
/// Fails if the model cannot be loaded, or a part of the worker ends by itself.
pub async fn run(
    settings: Settings,
    stop: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    engine::worker::run(settings, Role::Prefill, stop).await
}
