//! The client's side of a generation, as the dispatcher uses it.

use std::time::Duration;

use protocol::{CancelReason, Refusal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::GenerationEvent;

/// Longest wait for a client to accept the last event.
const LAST_EVENT_TIMEOUT: Duration = Duration::from_secs(5);

/// The client's side of a generation.
pub(super) struct Client {
    pub(super) events: mpsc::Sender<GenerationEvent>,
    /// Resolved once: accepted by workers, or refused.
    pub(super) started: Option<oneshot::Sender<Result<(), Refusal>>>,
    /// Resolves when the client cancels; an error means that it disconnected.
    pub(super) stopped: Option<oneshot::Receiver<CancelReason>>,
    /// True once the client disconnected or stopped reading.
    pub(super) gone: bool,
}

impl Client {
    pub(super) fn new(
        events: mpsc::Sender<GenerationEvent>,
        started: oneshot::Sender<Result<(), Refusal>>,
        stopped: oneshot::Receiver<CancelReason>,
    ) -> Self {
        Self { events, started: Some(started), stopped: Some(stopped), gone: false }
    }
}

/// Sends the end to the client: a refusal if the stream had not begun, else the last event.
pub(super) async fn send_end(
    events: mpsc::Sender<GenerationEvent>,
    started: Option<oneshot::Sender<Result<(), Refusal>>>,
    refusal: Option<Refusal>,
) {
    let Some(refusal) = refusal else { return };
    match started {
        Some(started) => {
            let _ignored_if_disconnected = started.send(Err(refusal));
        }
        None => {
            let sending = events.send(GenerationEvent::Failed(refusal));
            let _ignored_if_unread = timeout(LAST_EVENT_TIMEOUT, sending).await;
        }
    }
}
