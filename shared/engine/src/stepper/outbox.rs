//! The loop's side of the queues to the shell: tokens and blocks in separate ones, and the lists
//! that hold a step's events used over and over.

use std::sync::mpsc as ring;

use tokio::sync::mpsc::{self, error::TrySendError};

use crate::events::{BlockEvent, Events, StepEvent};

/// Steps' events that wait for the shell.
const STEP_EVENTS_MAX: usize = 1024;
/// Lists that wait to be filled again.
const LISTS_MAX: usize = 64;

/// What goes to the shell.
pub(super) struct Outbox {
    steps: mpsc::Sender<Events>,
    blocks: mpsc::Sender<BlockEvent>,
    list: Vec<StepEvent>,
    home: ring::SyncSender<Vec<StepEvent>>,
    returned: ring::Receiver<Vec<StepEvent>>,
}

impl Outbox {
    pub(super) fn new(
        blocks_max: usize,
    ) -> (Self, mpsc::Receiver<Events>, mpsc::Receiver<BlockEvent>) {
        let (steps, steps_out) = mpsc::channel(STEP_EVENTS_MAX);
        let (blocks, blocks_out) = mpsc::channel(blocks_max);
        let (home, returned) = ring::sync_channel(LISTS_MAX);
        (Self { steps, blocks, list: Vec::new(), home, returned }, steps_out, blocks_out)
    }

    /// Notes an event.
    pub(super) fn note(&mut self, event: StepEvent) {
        self.list.push(event);
    }

    /// Sends what was noted, if anything was.
    pub(super) fn send(&mut self) {
        if self.list.is_empty() {
            return;
        }
        let next = self.returned.try_recv().unwrap_or_default();
        let events = Events::new(std::mem::replace(&mut self.list, next), self.home.clone());
        if let Err(TrySendError::Full(events)) = self.steps.try_send(events) {
            // A shell that far behind holds the steps up rather than losing tokens.
            let _ = self.steps.blocking_send(events);
        }
    }

    /// A shell that cannot store as fast as blocks are computed loses the store's copy, not time.
    pub(super) fn block(&self, event: BlockEvent) {
        let event = match self.blocks.try_send(event) {
            Ok(()) | Err(TrySendError::Closed(_)) => return,
            Err(TrySendError::Full(BlockEvent::Sealed { key, name, .. })) => {
                BlockEvent::Unstored { key, name }
            }
            Err(TrySendError::Full(other)) => other,
        };
        let _ = self.blocks.blocking_send(event);
    }
}
