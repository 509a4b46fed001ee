//! The client's side of a generation, as the dispatcher sees it.

use std::time::Duration;

use protocol::{CancelReason, Refusal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::Piece;

/// For a client to make room for the last piece.
const LAST_PIECE_TIMEOUT: Duration = Duration::from_secs(5);

/// The client's side of a generation.
pub(super) struct Client {
    pub(super) pieces: mpsc::Sender<Piece>,
    /// Answered once: taken by workers, or refused.
    pub(super) started: Option<oneshot::Sender<Result<(), Refusal>>>,
    /// Resolves when the client wants no more; an error means that it is gone.
    pub(super) stopped: Option<oneshot::Receiver<CancelReason>>,
    pub(super) gone: bool,
}

impl Client {
    pub(super) fn new(
        pieces: mpsc::Sender<Piece>,
        started: oneshot::Sender<Result<(), Refusal>>,
        stopped: oneshot::Receiver<CancelReason>,
    ) -> Self {
        Self { pieces, started: Some(started), stopped: Some(stopped), gone: false }
    }
}

/// The last word to the client: a refusal where the stream had not begun, else the last piece.
pub(super) async fn tell_end(
    pieces: mpsc::Sender<Piece>,
    started: Option<oneshot::Sender<Result<(), Refusal>>>,
    refusal: Option<Refusal>,
) {
    let Some(refusal) = refusal else { return };
    match started {
        Some(started) => {
            let _client_is_there = started.send(Err(refusal));
        }
        None => {
            let sending = pieces.send(Piece::Failed(refusal));
            let _client_reads = timeout(LAST_PIECE_TIMEOUT, sending).await;
        }
    }
}
