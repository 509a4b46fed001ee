//! The loop's side of the queues from the shell.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{self, error::TryRecvError};

use crate::handle::{Arrival, COMMANDS_MAX, Command};
use crate::tickets::Signals;

/// What the shell sends.
pub(super) struct Inbox {
    commands: mpsc::Receiver<Command>,
    arrivals: mpsc::Receiver<Arrival>,
    /// A command that waiting has taken out already.
    first: Option<Command>,
    pub(super) signals: Arc<Signals>,
    /// Waiting sequences as far as the shell's count has heard of them.
    accounted: usize,
    over: bool,
}

impl Inbox {
    pub(super) fn new(
        commands: mpsc::Receiver<Command>,
        arrivals: mpsc::Receiver<Arrival>,
        signals: Arc<Signals>,
    ) -> Self {
        Self { commands, arrivals, first: None, signals, accounted: 0, over: false }
    }

    /// True when every handle is gone.
    pub(super) fn over(&self) -> bool {
        self.over
    }

    /// The next command.
    pub(super) fn command(&mut self) -> Option<Command> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        match self.commands.try_recv() {
            Ok(command) => Some(command),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                self.over = true;
                None
            }
        }
    }

    /// The next accepted sequence. Its place in the queue counts as known from here on.
    pub(super) fn arrival(&mut self) -> Option<Arrival> {
        let arrival = self.arrivals.try_recv().ok()?;
        self.accounted += 1;
        Some(arrival)
    }

    /// Tells the shell how many sequences wait now.
    pub(super) fn settle(&mut self, waiting: usize) {
        if waiting != self.accounted {
            self.signals.adjust(waiting as isize - self.accounted as isize);
            self.accounted = waiting;
        }
    }

    /// Waits for a command, at most so long.
    pub(super) async fn wait(&mut self, limit: Duration) {
        if self.first.is_none()
            && let Ok(received) = tokio::time::timeout(limit, self.commands.recv()).await
        {
            self.over = received.is_none();
            self.first = received;
        }
    }

    /// Commands that one turn obeys: a stream of imports must not keep steps from happening, and
    /// all that were sent before an arrival's wake-up was dropped are among them.
    pub(super) fn commands_max() -> usize {
        COMMANDS_MAX + 1
    }
}
