//! Keeps one service running until it is told to stop.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use chassis::StopToken;
use tokio::sync::mpsc;

use super::child::{Child, Stopped, describe};
use super::restarts::Restarts;
use super::roster::Service;

/// What happened to a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    /// Its place in the roster.
    pub(super) service: usize,
    /// What happened.
    pub(super) what: What,
}

/// The life of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// It runs.
    Started {
        /// Its process id.
        pid: u32,
        /// When, in milliseconds since the Unix epoch.
        at_ms: u64,
    },
    /// It ended although nobody told it to.
    Ended {
        /// How, for people.
        how: String,
        /// True when it went by itself, not by a signal.
        by_itself: bool,
        /// When it is started again.
        again_in: Duration,
    },
    /// It was told to stop and did not within the limit.
    Killed,
}

/// Everything that [`supervise`] needs to know.
#[derive(Debug)]
pub(super) struct Charge {
    /// Its place in the roster.
    pub(super) index: usize,
    /// The service.
    pub(super) service: Service,
    /// The program that runs it.
    pub(super) program: PathBuf,
    /// Told to stop by this.
    pub(super) stop: StopToken,
    /// How long it may take to stop.
    pub(super) stop_limit: Duration,
}

/// Starts the service, and starts it again whenever it ends, until it is told to stop.
pub(super) async fn supervise(charge: Charge, events: mpsc::Sender<Event>) {
    let mut restarts = Restarts::default();
    let tell = |what| {
        let event = Event { service: charge.index, what };
        let events = &events;
        // Nobody listens any more only when everything ends.
        async move { drop(events.send(event).await) }
    };
    loop {
        let started = Instant::now();
        let at_ms = crate::clock::unix_ms();
        let (how, by_itself) =
            match Child::start(&charge.program, &charge.service.name, &charge.service.arguments) {
                Err(error) => (format!("cannot be started: {error}"), true),
                Ok(mut child) => {
                    tell(What::Started { pid: child.id().unwrap_or(0), at_ms }).await;
                    let ended = tokio::select! {
                        ended = child.ended() => ended,
                        () = charge.stop.cancelled() => {
                            if child.stop(charge.stop_limit).await == Stopped::Killed {
                                tell(What::Killed).await;
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
        tell(What::Ended { how, by_itself, again_in }).await;
        tokio::select! {
            () = tokio::time::sleep(again_in) => {}
            () = charge.stop.cancelled() => return,
        }
    }
}
