//! The loop's side of the queues to the shell: one for tokens, one for blocks. The lists that hold a
//! step's events are reused.

use std::sync::mpsc as ring;

use tokio::sync::mpsc::{self, error::TrySendError};

use crate::events::{BlockEvent, Events, StepEvent};

/// Event lists that may wait for the shell.
const STEP_EVENTS_MAX: usize = 1024;
/// Empty lists that may wait for reuse.
const LISTS_MAX: usize = 64;

/// The senders to the shell.
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

    /// Adds an event to those to send.
    pub(super) fn push(&mut self, event: StepEvent) {
        self.list.push(event);
    }

    /// Sends the added events, if there are any.
    pub(super) fn send(&mut self) {
        if self.list.is_empty() {
            return;
        }
        let next = self.returned.try_recv().unwrap_or_default();
        let events = Events::new(std::mem::replace(&mut self.list, next), self.home.clone());
        if let Err(TrySendError::Full(events)) = self.steps.try_send(events) {
            // A shell that far behind delays the steps rather than losing tokens.
            let _ = self.steps.blocking_send(events);
        }
    }

    /// Sends a block event. When the shell stores more slowly than the loop computes, the block is
    /// dropped rather than the step delayed.
    pub(super) fn block(&self, event: BlockEvent) {
        let event = match self.blocks.try_send(event) {
            Ok(()) | Err(TrySendError::Closed(_)) => return,
            Err(TrySendError::Full(BlockEvent::Sealed { key, hash, .. })) => {
                BlockEvent::Dropped { key, hash }
            }
            Err(TrySendError::Full(other)) => other,
        };
        let _ = self.blocks.blocking_send(event);
    }
}
