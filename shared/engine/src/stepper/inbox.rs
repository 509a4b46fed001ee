//! The loop's side of the queues from the shell.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{self, error::TryRecvError};

use crate::handle::{Arrival, COMMANDS_MAX, Command};
use crate::tickets::Signals;

/// The receivers from the shell.
pub(super) struct Inbox {
    commands: mpsc::Receiver<Command>,
    arrivals: mpsc::Receiver<Arrival>,
    /// A command that [`Self::wait`] has received.
    first: Option<Command>,
    pub(super) signals: Arc<Signals>,
    /// Waiting sequences that the shell's count includes.
    accounted: usize,
    closed: bool,
}

impl Inbox {
    pub(super) fn new(
        commands: mpsc::Receiver<Command>,
        arrivals: mpsc::Receiver<Arrival>,
        signals: Arc<Signals>,
    ) -> Self {
        Self { commands, arrivals, first: None, signals, accounted: 0, closed: false }
    }

    /// Returns true once every handle is gone.
    pub(super) fn closed(&self) -> bool {
        self.closed
    }

    /// Receives the next command, if there is one.
    pub(super) fn command(&mut self) -> Option<Command> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        match self.commands.try_recv() {
            Ok(command) => Some(command),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                self.closed = true;
                None
            }
        }
    }

    /// Receives the next accepted sequence, if there is one, and counts it.
    pub(super) fn arrival(&mut self) -> Option<Arrival> {
        let arrival = self.arrivals.try_recv().ok()?;
        self.accounted += 1;
        Some(arrival)
    }

    /// Corrects the shell's count to `waiting` sequences.
    pub(super) fn settle(&mut self, waiting: usize) {
        if waiting != self.accounted {
            self.signals.adjust(waiting as isize - self.accounted as isize);
            self.accounted = waiting;
        }
    }

    /// Waits for a command, at most for `limit`.
    pub(super) async fn wait(&mut self, limit: Duration) {
        if self.first.is_none()
            && let Ok(received) = tokio::time::timeout(limit, self.commands.recv()).await
        {
            self.closed = received.is_none();
            self.first = received;
        }
    }

    /// Returns the most commands that one iteration applies: a stream of imports must not starve
    /// steps, and every command sent before a dropped wake-up must be among them.
    pub(super) fn commands_max() -> usize {
        COMMANDS_MAX + 1
    }
}
