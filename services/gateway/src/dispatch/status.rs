//! The status of the system behind the dispatcher.

use std::time::Duration;

use bus::Context;
use protocol::StoreStatus;

use super::Dispatcher;
use crate::dispatch::backend::FleetStatus;

/// Longest wait for the store's status.
const STORE_TIMEOUT: Duration = Duration::from_millis(800);

impl Dispatcher {
    /// Returns the workers by their presence, and the store's status.
    pub async fn status(&self) -> FleetStatus {
        let shared = &self.shared;
        let (request, context) = (StoreStatus {}, Context::default());
        let store = shared.bus.ask_store(&request, &context, STORE_TIMEOUT).await;
        FleetStatus {
            fleet: shared.fleet.view(),
            store: store.map_err(|error| error.to_string()),
            retries: shared.counters.retries.get(),
        }
    }
}
