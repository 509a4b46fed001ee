//! The publication of trace verdicts to the other services.

use std::time::Duration;

use bus::Bus;
use chassis::StopToken;
use chassis::telemetry::Tracer;
use tokio::time::{MissedTickBehavior, interval};

/// Shorter than the time for which services hold spans.
const PUBLISH_EVERY: Duration = Duration::from_millis(200);

/// Publishes verdicts until the stop, and once more after it.
pub(super) async fn publish(bus: Bus, tracer: Tracer, stop: StopToken) -> anyhow::Result<()> {
    let mut ticks = interval(PUBLISH_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let stopped = tokio::select! {
            _ = ticks.tick() => false,
            () = stop.cancelled() => true,
        };
        let verdicts = tracer.take_verdicts();
        if !verdicts.is_empty()
            && let Err(error) = bus.send_verdicts(&verdicts).await
        {
            tracing::warn!(%error, "failed to publish trace verdicts");
        }
        if stopped {
            return Ok(());
        }
    }
}
