//! The page at `/`: the present state of the fleet, and a chat to try it.
//!
//! It consists of plain files and one JSON document, `/fleet`. `/fleet/events` streams that document
//! every second. Nothing runs while there are no readers.

mod assets;
mod events;
mod report;

use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use chassis::StopToken;
use chassis::settings::LinksSettings;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;

use self::report::FleetReport;
pub use self::report::{StoreReport, WorkerReport};
use crate::dispatch::backend::Backend;
use crate::error::ApiError;
use crate::observe::HttpMetrics;
use crate::text::TextModel;

/// Most readers of `/fleet/events` at the same time; a further page polls `/fleet`.
pub const WATCHERS_MAX: usize = 64;

const NO_SNIFF: (HeaderName, &str) = (header::X_CONTENT_TYPE_OPTIONS, "nosniff");

/// The parts of the gateway that the page shows.
pub(crate) struct PageParts {
    pub(crate) text: Arc<TextModel>,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) http_metrics: Arc<HttpMetrics>,
    pub(crate) max_inflight: usize,
    pub(crate) links: LinksSettings,
    /// Ends the streams of states.
    pub(crate) stop: StopToken,
}

/// The state behind the page.
pub(crate) struct Page {
    parts: PageParts,
    started: SystemTime,
    latest: Mutex<Option<(Instant, Bytes)>>,
    watcher_permits: Arc<Semaphore>,
}

/// Returns the routes of the page.
pub(crate) fn routes<S>(page: Arc<Page>) -> Router<S> {
    Router::new()
        .route("/", get(assets::index))
        .route("/page/{file}", get(assets::file))
        .route("/fleet", get(fleet))
        .route("/fleet/events", get(events::events))
        .with_state(page)
}

async fn fleet(State(page): State<Arc<Page>>) -> Response {
    match page.state().await {
        Ok(json) => {
            let headers = [
                (header::CONTENT_TYPE, "application/json"),
                (header::CACHE_CONTROL, "no-store"),
                NO_SNIFF,
            ];
            (headers, json).into_response()
        }
        Err(error) => error.into_response(),
    }
}

impl Page {
    /// Returns a page without readers.
    pub(crate) fn new(parts: PageParts) -> Self {
        Self {
            parts,
            started: SystemTime::now(),
            latest: Mutex::default(),
            watcher_permits: Arc::new(Semaphore::new(WATCHERS_MAX)),
        }
    }

    /// Returns the current state as JSON. Every reader within [`events::EVERY`] gets the same one,
    /// so that watching costs the same however many watch.
    async fn state(&self) -> Result<Bytes, ApiError> {
        let mut latest = self.latest.lock().await;
        if let Some((made, json)) = &*latest
            && made.elapsed() < events::EVERY
        {
            return Ok(json.clone());
        }
        let made = Instant::now();
        let status = self.parts.backend.status().await;
        let facts = report::Facts {
            now: SystemTime::now(),
            started: self.started,
            model: &self.parts.text.model,
            context_tokens: self.parts.backend.context_tokens(self.parts.text.context_tokens),
            max_inflight: self.parts.max_inflight,
            readiness: self.parts.backend.readiness(),
            links: &self.parts.links,
            status: &status,
            metrics: &self.parts.http_metrics,
        };
        let report = FleetReport::new(&facts);
        let json = serde_json::to_vec(&report).map(Bytes::from).map_err(|error| {
            let message = format!("the fleet cannot be written as JSON: {error}");
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message)
        })?;
        *latest = Some((made, json.clone()));
        Ok(json)
    }
}
