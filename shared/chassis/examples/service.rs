//! The smallest service: says `ready`, runs until it is stopped, says `drained`.

use std::io::Write as _;
use std::time::Duration;

use chassis::settings::TelemetrySettings;
use chassis::{Tasks, tasks, telemetry};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let has = |flag: &str| std::env::args().any(|argument| argument == flag);
    telemetry::init_logging(&TelemetrySettings::default())?;
    tasks::install_panic_hook();
    let shutdown = tasks::shutdown_signal(has("--tethered"))?;

    let mut owned = Tasks::new();
    let stop = owned.stop();
    owned.spawn("work", async move {
        writeln!(std::io::stdout(), "ready")?;
        stop.cancelled().await;
        writeln!(std::io::stdout(), "drained")?;
        Ok(())
    });
    if has("--panic") {
        owned.spawn("broken", async { panic!("broken on purpose") });
    }
    owned.run_until(shutdown, Duration::from_secs(5)).await
}
