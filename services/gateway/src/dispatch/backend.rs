//! The interface between HTTP and the dispatcher.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::future::BoxFuture;
use protocol::{CancelReason, ErrorClass, Refusal, StoreStatusReply};

use crate::dispatch::fleet::FleetView;
use crate::dispatch::{Dispatcher, Generation, GenerationEvent, GenerationHandle};

/// A backend that runs generations.
pub trait Backend: Send + Sync + 'static {
    /// Admits and starts a generation, or refuses it before any work was done.
    fn start(
        &self,
        generation: Generation,
    ) -> BoxFuture<'_, Result<Box<dyn GenerationStream>, Refusal>>;
    /// Returns the reason why a generation would fail now.
    fn readiness(&self) -> Result<(), String>;
    /// Returns the longest sequence that the workers hold, if any is known.
    fn max_model_len(&self) -> Option<u32>;
    /// Returns the longest sequence that can be generated now by a model made for `model_tokens`.
    fn context_tokens(&self, model_tokens: u32) -> u32 {
        self.max_model_len().map_or(model_tokens, |workers| workers.min(model_tokens))
    }
    /// Returns the time after which a refused client may try again.
    fn retry_after(&self) -> Duration;
    /// Returns the status of workers and store, within a second.
    fn status(&self) -> BoxFuture<'_, FleetStatus>;
}

/// The status of the system behind the gateway.
#[derive(Clone, Debug, PartialEq)]
pub struct FleetStatus {
    /// The workers.
    pub fleet: FleetView,
    /// The store of prefixes, or the reason why its status is unknown.
    pub store: Result<StoreStatusReply, String>,
    /// Attempts after the first since the gateway started.
    pub retries: u64,
}

/// A running generation. Dropping it cancels it, as if the client had disconnected.
pub trait GenerationStream: Send {
    /// Returns the next event. Tokens come in order, without gap or repetition; the last event
    /// carries `finish` or is a failure.
    fn next(&mut self) -> BoxFuture<'_, Option<GenerationEvent>>;
    /// Cancels the generation for `reason`.
    fn stop(self: Box<Self>, reason: CancelReason);
}

impl Backend for Dispatcher {
    fn start(
        &self,
        generation: Generation,
    ) -> BoxFuture<'_, Result<Box<dyn GenerationStream>, Refusal>> {
        Box::pin(async move {
            let running = Self::start(self, generation).await?;
            Ok(Box::new(running) as Box<dyn GenerationStream>)
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

    fn status(&self) -> BoxFuture<'_, FleetStatus> {
        Box::pin(Self::status(self))
    }
}

impl GenerationStream for GenerationHandle {
    fn next(&mut self) -> BoxFuture<'_, Option<GenerationEvent>> {
        Box::pin(Self::next(self))
    }

    fn stop(self: Box<Self>, reason: CancelReason) {
        Self::stop(*self, reason);
    }
}

/// A dispatcher that exists once the bus is connected.
#[derive(Clone, Default)]
pub(crate) struct Connecting {
    dispatcher: Arc<OnceLock<Dispatcher>>,
}

impl Connecting {
    /// Runs generations from now on.
    pub(crate) fn connected(&self, dispatcher: Dispatcher) {
        // Only the first call has an effect, and there is only one.
        let _ = self.dispatcher.set(dispatcher);
    }
}

const NOT_CONNECTED: &str = "not connected to NATS yet";

impl Backend for Connecting {
    fn start(
        &self,
        generation: Generation,
    ) -> BoxFuture<'_, Result<Box<dyn GenerationStream>, Refusal>> {
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

    fn status(&self) -> BoxFuture<'_, FleetStatus> {
        match self.dispatcher.get() {
            Some(dispatcher) => Backend::status(dispatcher),
            None => Box::pin(async {
                let stale_reason = Some(NOT_CONNECTED.to_owned());
                let fleet = FleetView { stale_reason, ..FleetView::default() };
                FleetStatus { fleet, store: Err(NOT_CONNECTED.to_owned()), retries: 0 }
            }),
        }
    }
}
