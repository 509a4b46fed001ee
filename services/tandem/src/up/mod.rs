//! `tandem up`: every service on this machine, each a process of its own, kept running.

mod board;
mod child;
mod plan;
mod probe;
mod restarts;
mod roster;
mod store_dir;
mod supervise;
mod team;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use chassis::SettingsArgs;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::console;
use board::{Board, Snapshot};
use plan::Plan;
use probe::Inquiry;
use team::Team;

pub(crate) use plan::base_url;

/// How often to say what is still missing.
const PATIENCE: Duration = Duration::from_secs(10);

/// What to start.
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
    let counts = (usize::from(args.prefill), usize::from(args.decode));
    // On a blocking thread: fetching waits for pip.
    let planning = tokio::task::spawn_blocking(move || Plan::make(&effective, &flags, counts));
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

/// A port that somebody else has must not be found out by a service that dies in the background.
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
    let inquiry = Inquiry {
        services: plan.services.clone(),
        nats_url: plan.nats_url.clone(),
        connect_timeout: plan.connect_timeout,
        base_url: plan.base_url.clone(),
    };
    let (sender, snapshots) = watch::channel(Snapshot::default());
    let mut prober = JoinSet::new();
    prober.spawn(probe::probe(inquiry, sender));
    let mut team = Team::start(&plan.services, program, plan.stop_limit);
    let watched = watch_over(plan, &mut team, snapshots, stop).await;
    prober.abort_all();
    console::line("stopping");
    team.stop().await;
    watched
}

/// Tells people what happens until told to stop, or until going on is hopeless.
async fn watch_over(
    plan: &Plan,
    team: &mut Team,
    mut snapshots: watch::Receiver<Snapshot>,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    tokio::pin!(stop);
    let mut board = Board::new(&plan.services);
    let mut reminder = tokio::time::interval(PATIENCE);
    reminder.reset();
    loop {
        let was_complete = board.is_complete();
        tokio::select! {
            () = &mut stop => return Ok(()),
            event = team.next_event() => {
                if let Some(line) = board.happened(event)? {
                    console::line(&line);
                }
            }
            changed = snapshots.changed() => {
                changed.context("the readiness checks ended")?;
                let snapshot = snapshots.borrow_and_update().clone();
                board.probed(&snapshot).iter().for_each(|line| console::line(line));
            }
            _ = reminder.tick() => board.waiting().iter().for_each(|line| console::line(line)),
        }
        if !was_complete && board.is_complete() {
            console::line(&plan.invitation());
        }
    }
}
