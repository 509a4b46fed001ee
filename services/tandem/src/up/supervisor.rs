//! All supervised services, and the order in which they stop.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use chassis::StopToken;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::service_task::{Event, ServiceEvent, ServiceTask, supervise};
use super::services::Service;
use crate::console;

const EVENTS_MAX: usize = 64;

/// Services that stop at the same time.
#[derive(Debug, Default)]
struct Rank {
    stop: StopToken,
    tasks: JoinSet<()>,
}

/// The tasks of all services.
#[derive(Debug)]
pub(super) struct Supervisor {
    ranks: BTreeMap<u8, Rank>,
    names: Vec<String>,
    events: mpsc::Receiver<Event>,
    // Held, so that waiting for an event never ends.
    _sender: mpsc::Sender<Event>,
}

impl Supervisor {
    /// Starts every service.
    pub(super) fn start(services: &[Service], program: PathBuf, stop_limit: Duration) -> Self {
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let mut ranks: BTreeMap<u8, Rank> = BTreeMap::new();
        for (index, service) in services.iter().enumerate() {
            let rank = ranks.entry(service.kind.stop_order()).or_default();
            let task = ServiceTask {
                index,
                service: service.clone(),
                program: program.clone(),
                stop: rank.stop.clone(),
                stop_limit,
            };
            rank.tasks.spawn(supervise(task, sender.clone()));
        }
        let names = services.iter().map(|service| service.name.clone()).collect();
        Self { ranks, names, events, _sender: sender }
    }

    /// Returns the next event of any service.
    pub(super) async fn next_event(&mut self) -> Event {
        match self.events.recv().await {
            Some(event) => event,
            // Impossible while we hold a sender.
            None => std::future::pending().await,
        }
    }

    /// Stops everything in order. A second Ctrl-C kills what is left.
    pub(super) async fn stop(mut self) {
        let Self { ranks, names, events, .. } = &mut self;
        let in_order = async {
            for rank in ranks.values_mut() {
                rank.stop.cancel();
                while rank.tasks.join_next().await.is_some() {}
            }
        };
        tokio::pin!(in_order);
        loop {
            tokio::select! {
                () = &mut in_order => break,
                Some(event) = events.recv() => {
                    if event.event == ServiceEvent::Killed && let Some(name) = names.get(event.service) {
                        console::line(&format!("{name:<10}  killed    it did not stop in time"));
                    }
                }
                _ = tokio::signal::ctrl_c() => {
                    console::line("killing what is left");
                    break;
                }
            }
        }
        // Dropping the sets drops the children, and that kills them.
    }
}
