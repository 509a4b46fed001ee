//! What the dispatcher can tell people about the workers and the store behind it.

use std::time::Duration;

use bus::Context;
use protocol::StoreStatus;

use super::Dispatcher;
use crate::dispatch::backend::Sight;

/// How long the store may take to say how it is.
const STORE_TIMEOUT: Duration = Duration::from_millis(800);

impl Dispatcher {
    /// The workers as they were told, and the store's own words.
    pub async fn sight(&self) -> Sight {
        let shared = &self.shared;
        let (question, context) = (StoreStatus {}, Context::default());
        let store = shared.bus.ask_store(&question, &context, STORE_TIMEOUT).await;
        Sight {
            fleet: shared.fleet.view(),
            store: store.map_err(|error| error.to_string()),
            retries: shared.counters.retries.get(),
        }
    }
}
