//! Tells every service which traces are worth keeping, some times a second.

use std::time::Duration;

use bus::Bus;
use chassis::StopToken;
use chassis::telemetry::Tracer;
use tokio::time::{MissedTickBehavior, interval};

/// Services hold spans for longer than that.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// Tells until the stop, and once more then.
pub(super) async fn tell(bus: Bus, tracer: Tracer, stop: StopToken) -> anyhow::Result<()> {
    let mut ticks = interval(TELL_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let over = tokio::select! {
            _ = ticks.tick() => false,
            () = stop.cancelled() => true,
        };
        let verdicts = tracer.verdicts();
        if !verdicts.is_empty()
            && let Err(error) = bus.send_verdicts(&verdicts).await
        {
            tracing::warn!(%error, "failed to publish trace verdicts");
        }
        if over {
            return Ok(());
        }
    }
}
