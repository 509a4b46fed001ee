//! `tandem up`: every service on this machine, each a process of its own, kept running.

mod child;
mod plan;
mod probe;
mod restarts;
mod running;
mod service_task;
mod services;
mod status_board;
mod store_dir;
mod supervisor;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use chassis::{Effective, SettingsArgs};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::console;
use plan::Plan;
use probe::ProbeTargets;
use services::WorkerCounts;
use status_board::{Snapshot, StatusBoard};
use supervisor::Supervisor;

pub(crate) use plan::base_url;
pub(crate) use running::Running;

/// Returns the addresses of the system that a command is about: those of the settings, and for what
/// they leave open those of the system that was started last on this machine.
pub(crate) fn addresses(effective: &Effective) -> Running {
    let settings = &effective.settings;
    let mut running = Running {
        base_url: base_url(&settings.gateway.listen),
        nats_url: settings.nats.url.clone(),
    };
    let is_default = |key| effective.origin(key) == Some("default");
    let cache = provision::Cache::locate().ok();
    if let Some(found) = cache.and_then(|cache| Running::find(cache.root())) {
        if is_default("gateway.listen") && is_default("nats.url") {
            return found;
        }
        if is_default("gateway.listen") && running.nats_url == found.nats_url {
            running.base_url = found.base_url;
        } else if is_default("nats.url") && running.base_url == found.base_url {
            running.nats_url = found.nats_url;
        }
    }
    running
}

/// The time between two reminders of what is missing.
const REMINDER_PERIOD: Duration = Duration::from_secs(10);

/// The number of workers, and the settings of all services.
#[derive(Debug, clap::Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Number of prefill workers
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=64))]
    prefill: u8,
    /// Number of decode workers
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=64))]
    decode: u8,
    /// End when standard input ends
    #[arg(long)]
    tethered: bool,
}

/// Starts everything, keeps it running, and stops it in good order.
pub(crate) async fn run(args: UpArgs) -> anyhow::Result<()> {
    let stop = chassis::tasks::shutdown_signal(args.tethered)?;
    tokio::pin!(stop);
    if args.prefill + args.decode == 0 {
        bail!("--prefill 0 --decode 0: nothing could answer");
    }
    let effective = args.settings.load()?;
    check_port(&effective.settings.gateway.listen)?;
    let flags = args.settings.flags()?;
    let workers = WorkerCounts { prefill: args.prefill.into(), decode: args.decode.into() };
    // On a blocking thread: fetching waits for pip.
    let planning = tokio::task::spawn_blocking(move || Plan::make(&effective, &flags, workers));
    let plan = tokio::select! {
        plan = planning => plan.context("prepare")??,
        () = &mut stop => return Ok(()),
    };
    let program = std::env::current_exe().context("find this program")?;
    let outcome = serve(&plan, program, stop).await;
    // Its clients are gone; waiting for it to end may block.
    let ended = tokio::task::spawn_blocking(move || drop(plan)).await;
    outcome?;
    ended.context("stop nats-server")
}

/// Fails when another program has the port: a service would only find out in the background.
fn check_port(listen: &str) -> anyhow::Result<()> {
    match std::net::TcpListener::bind(listen) {
        Ok(_) => Ok(()),
        Err(error) => bail!("cannot listen on {listen}: {error}; choose another with --listen"),
    }
}

async fn serve(
    plan: &Plan,
    program: PathBuf,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let targets = ProbeTargets {
        services: plan.services.clone(),
        nats_url: plan.nats_url.clone(),
        connect_timeout: plan.connect_timeout,
        base_url: plan.base_url.clone(),
    };
    let (sender, snapshots) = watch::channel(Snapshot::default());
    let mut prober = JoinSet::new();
    prober.spawn(probe::probe(targets, sender));
    let mut supervisor = Supervisor::start(&plan.services, program, plan.stop_limit);
    let watched = watch_over(plan, &mut supervisor, snapshots, stop).await;
    prober.abort_all();
    console::line("stopping");
    supervisor.stop().await;
    watched
}

/// Prints what happens until `stop` resolves, or until the startup fails.
async fn watch_over(
    plan: &Plan,
    supervisor: &mut Supervisor,
    mut snapshots: watch::Receiver<Snapshot>,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    tokio::pin!(stop);
    let mut board = StatusBoard::new(&plan.services);
    let running = Running { base_url: plan.base_url.clone(), nats_url: plan.nats_url.clone() };
    let announced = provision::Cache::locate().map_err(anyhow::Error::from).and_then(|cache| {
        running.announce(cache.root()).context("announce this system to `chat` and `status`")
    });
    // Without it they still work, with --url and --nats.
    let _announcement = announced.inspect_err(console::warn).ok();
    let mut reminder = tokio::time::interval(REMINDER_PERIOD);
    reminder.reset();
    loop {
        let was_complete = board.is_complete();
        tokio::select! {
            () = &mut stop => return Ok(()),
            event = supervisor.next_event() => {
                if let Some(line) = board.on_event(event)? {
                    console::line(&line);
                }
            }
            changed = snapshots.changed() => {
                changed.context("the readiness checks ended")?;
                let snapshot = snapshots.borrow_and_update().clone();
                board.on_snapshot(&snapshot).iter().for_each(|line| console::line(line));
            }
            _ = reminder.tick() => board.waiting().iter().for_each(|line| console::line(line)),
        }
        if !was_complete && board.is_complete() {
            console::line(&plan.invitation());
        }
    }
}
