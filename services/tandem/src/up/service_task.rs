//! The task that keeps one service running until the stop token.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use chassis::StopToken;
use tokio::sync::mpsc;

use super::child::{Child, Stopped, describe};
use super::restarts::Restarts;
use super::services::Service;

/// An event of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    /// Its index.
    pub(super) service: usize,
    /// The event.
    pub(super) event: ServiceEvent,
}

/// A change in the life of a service's process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ServiceEvent {
    /// It runs.
    Started {
        /// Its process id.
        pid: u32,
        /// The time, in milliseconds since the Unix epoch.
        at_ms: u64,
    },
    /// It ended without being asked to.
    Ended {
        /// The manner, for people.
        how: String,
        /// True when it exited by itself, not by a signal.
        by_itself: bool,
        /// The delay before it is started again.
        again_in: Duration,
    },
    /// It was asked to stop and did not within the limit.
    Killed,
}

/// The arguments of [`supervise`].
#[derive(Debug)]
pub(super) struct ServiceTask {
    /// Its index.
    pub(super) index: usize,
    /// The service.
    pub(super) service: Service,
    /// The program that runs it.
    pub(super) program: PathBuf,
    /// The token that stops it.
    pub(super) stop: StopToken,
    /// The time that it may take to stop.
    pub(super) stop_limit: Duration,
}

/// Starts the service, and starts it again whenever it ends, until the stop token.
pub(super) async fn supervise(task: ServiceTask, events: mpsc::Sender<Event>) {
    let mut restarts = Restarts::default();
    let report = async |event| {
        // The receiver is dropped only when everything ends.
        drop(events.send(Event { service: task.index, event }).await);
    };
    loop {
        let started = Instant::now();
        let at_ms = chassis::clock::now_ms();
        let (how, by_itself) = match Child::start(&task.program, &task.service) {
            Err(error) => (format!("cannot be started: {error}"), true),
            Ok(mut child) => {
                report(ServiceEvent::Started { pid: child.id().unwrap_or(0), at_ms }).await;
                let ended = tokio::select! {
                    ended = child.ended() => ended,
                    () = task.stop.cancelled() => {
                        if child.stop(task.stop_limit).await == Stopped::Killed {
                            report(ServiceEvent::Killed).await;
                        }
                        return;
                    }
                };
                match ended {
                    Ok(status) => (describe(status), status.code().is_some()),
                    Err(error) => (format!("cannot be watched: {error}"), true),
                }
            }
        };
        let again_in = restarts.after(started.elapsed());
        report(ServiceEvent::Ended { how, by_itself, again_in }).await;
        tokio::select! {
            () = tokio::time::sleep(again_in) => {}
            () = task.stop.cancelled() => return,
        }
    }
}
