//! What the HTTP half asks of the half that runs generations.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::future::BoxFuture;
use protocol::{CancelReason, ErrorClass, Refusal, StoreStatusReply};

use crate::dispatch::fleet::FleetView;
use crate::dispatch::{Dispatcher, Generation, Piece, Running};

/// Runs generations somewhere.
pub trait Backend: Send + Sync + 'static {
    /// Admits and starts a generation, or refuses it before any work was done.
    fn start(&self, generation: Generation) -> BoxFuture<'_, Result<Box<dyn Pieces>, Refusal>>;
    /// Whether a generation would succeed now; if not, why.
    fn readiness(&self) -> Result<(), String>;
    /// Longest sequence that the workers hold, when any is known.
    fn max_model_len(&self) -> Option<u32>;
    /// Returns the longest sequence that can be generated now by a model made for `model_tokens`.
    fn context_tokens(&self, model_tokens: u32) -> u32 {
        self.max_model_len().map_or(model_tokens, |workers| workers.min(model_tokens))
    }
    /// When a refused client may expect room.
    fn retry_after(&self) -> Duration;
    /// Who is there to run generations; answers within a second.
    fn sight(&self) -> BoxFuture<'_, Sight>;
}

/// What can be seen of the system behind the gateway.
#[derive(Clone, Debug, PartialEq)]
pub struct Sight {
    /// The workers.
    pub fleet: FleetView,
    /// The store of prefixes, or why nothing is known of it.
    pub store: Result<StoreStatusReply, String>,
    /// Attempts after the first since the gateway started.
    pub retries: u64,
}

/// A running generation. Dropping it gives it up, as if the client had gone.
pub trait Pieces: Send {
    /// The next token, in order, without gap or repetition; the last one carries `finish` or is a
    /// failure.
    fn next(&mut self) -> BoxFuture<'_, Option<Piece>>;
    /// Gives the generation up for `reason`.
    fn stop(self: Box<Self>, reason: CancelReason);
}

impl Backend for Dispatcher {
    fn start(&self, generation: Generation) -> BoxFuture<'_, Result<Box<dyn Pieces>, Refusal>> {
        Box::pin(async move {
            let running = Self::start(self, generation).await?;
            Ok(Box::new(running) as Box<dyn Pieces>)
        })
    }

    fn readiness(&self) -> Result<(), String> {
        Self::readiness(self)
    }

    fn max_model_len(&self) -> Option<u32> {
        Self::max_model_len(self)
    }

    fn retry_after(&self) -> Duration {
        Self::retry_after(self)
    }

    fn sight(&self) -> BoxFuture<'_, Sight> {
        Box::pin(Self::sight(self))
    }
}

impl Pieces for Running {
    fn next(&mut self) -> BoxFuture<'_, Option<Piece>> {
        Box::pin(Self::next(self))
    }

    fn stop(self: Box<Self>, reason: CancelReason) {
        Self::stop(*self, reason);
    }
}

/// A dispatcher that is not there before the bus is.
#[derive(Clone, Default)]
pub(crate) struct Connecting {
    dispatcher: Arc<OnceLock<Dispatcher>>,
}

impl Connecting {
    /// From now on generations run.
    pub(crate) fn connected(&self, dispatcher: Dispatcher) {
        // Only the first call has an effect, and there is only one.
        let _ = self.dispatcher.set(dispatcher);
    }
}

const NOT_CONNECTED: &str = "not connected to NATS yet";

impl Backend for Connecting {
    fn start(&self, generation: Generation) -> BoxFuture<'_, Result<Box<dyn Pieces>, Refusal>> {
        match self.dispatcher.get() {
            Some(dispatcher) => Backend::start(dispatcher, generation),
            None => Box::pin(async { Err(Refusal::new(ErrorClass::Retry, NOT_CONNECTED)) }),
        }
    }

    fn readiness(&self) -> Result<(), String> {
        self.dispatcher.get().ok_or_else(|| NOT_CONNECTED.to_owned())?.readiness()
    }

    fn max_model_len(&self) -> Option<u32> {
        self.dispatcher.get()?.max_model_len()
    }

    fn retry_after(&self) -> Duration {
        self.dispatcher.get().map_or(Duration::from_secs(1), Dispatcher::retry_after)
    }

    fn sight(&self) -> BoxFuture<'_, Sight> {
        match self.dispatcher.get() {
            Some(dispatcher) => Backend::sight(dispatcher),
            None => Box::pin(async {
                let unseen = Some(NOT_CONNECTED.to_owned());
                let fleet = FleetView { unseen, ..FleetView::default() };
                Sight { fleet, store: Err(NOT_CONNECTED.to_owned()), retries: 0 }
            }),
        }
    }
}
