//! The page at `/`: what the fleet does now, and a place to try it.
//!
//! It is plain files and one JSON document, `/fleet`, of which `/fleet/events` sends a new state
//! every second. Nothing runs for it while nobody looks.

mod assets;
mod counters;
mod events;
mod report;

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use chassis::StopToken;
use chassis::http::axum::Router;
use chassis::http::axum::extract::State;
use chassis::http::axum::http::{HeaderName, StatusCode, header};
use chassis::http::axum::response::{IntoResponse, Response};
use chassis::http::axum::routing::get;
use chassis::settings::LinksSettings;
use tokio::sync::{Mutex, Semaphore};

use crate::app::App;
use crate::respond::ApiError;

/// Pages that are sent every state at the same time; a further one has to ask for each.
pub const WATCHERS_MAX: usize = 64;

const NO_SNIFF: (HeaderName, &str) = (header::X_CONTENT_TYPE_OPTIONS, "nosniff");

/// What the page needs beside the rest of the gateway.
#[derive(Debug)]
pub struct Page {
    links: LinksSettings,
    /// Ends the streams of states.
    stop: StopToken,
    started: SystemTime,
    latest: Mutex<Option<(Instant, Bytes)>>,
    seats: Arc<Semaphore>,
}

impl Page {
    /// A page with these links, whose streams end with `stop`.
    pub fn new(links: LinksSettings, stop: StopToken) -> Self {
        Self {
            links,
            stop,
            started: SystemTime::now(),
            latest: Mutex::default(),
            seats: Arc::new(Semaphore::new(WATCHERS_MAX)),
        }
    }
}

/// The page's paths.
pub(crate) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/", get(assets::index))
        .route("/page/{file}", get(assets::file))
        .route("/fleet", get(fleet))
        .route("/fleet/events", get(events::events))
}

async fn fleet(State(app): State<Arc<App>>) -> Response {
    match state(&app).await {
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

/// The state now, as JSON. All who ask within [`events::EVERY`] get the same one, so that watching
/// costs the same however many watch.
async fn state(app: &App) -> Result<Bytes, ApiError> {
    let mut latest = app.page.latest.lock().await;
    if let Some((made, json)) = &*latest
        && made.elapsed() < events::EVERY
    {
        return Ok(json.clone());
    }
    let made = Instant::now();
    let sight = app.backend.sight().await;
    let requests = app.metrics.encode().map_err(|error| {
        let message = format!("the metrics cannot be written: {error}");
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    })?;
    let report = report::report(&report::Facts {
        now: SystemTime::now(),
        started: app.page.started,
        model: &app.text.model,
        context_tokens: app.max_model_len(),
        max_inflight: app.limits.max_inflight,
        readiness: app.backend.readiness(),
        links: &app.page.links,
        sight: &sight,
        exposition: &requests,
    });
    let json = Bytes::from(report.to_string());
    *latest = Some((made, json.clone()));
    Ok(json)
}
