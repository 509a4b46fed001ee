//! HTTP: a router that is served until the stop token, and the health endpoints of every service.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::ListenerExt as _;
use serde_json::json;
use tokio::net::TcpListener;

use crate::metrics::Metrics;
use crate::tasks::StopToken;

/// Serves `router` until `stop`, then finishes the requests that are open.
///
/// Waits without a limit of its own: the owner's drain time bounds it.
pub async fn serve(listener: TcpListener, router: Router, stop: StopToken) -> io::Result<()> {
    let listener = listener.tap_io(|stream| {
        // Tokens are small writes; they must not wait for one another.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "failed to set TCP_NODELAY");
        }
    });
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
}

/// The conditions that a service waits for before it can do its work; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    pending: Arc<RwLock<BTreeMap<&'static str, String>>>,
}

impl Readiness {
    /// Returns a readiness that waits for each of `conditions`.
    pub fn waiting_for<const N: usize>(conditions: [&'static str; N]) -> Self {
        let pending = conditions.map(|condition| (condition, "starting".to_owned()));
        Self { pending: Arc::new(RwLock::new(BTreeMap::from(pending))) }
    }

    /// Marks `condition` as met.
    pub fn met(&self, condition: &'static str) {
        self.pending.write().unwrap_or_else(PoisonError::into_inner).remove(condition);
    }

    /// Marks `condition` as not met, with a reason for people.
    pub fn unmet(&self, condition: &'static str, reason: impl Into<String>) {
        let mut pending = self.pending.write().unwrap_or_else(PoisonError::into_inner);
        pending.insert(condition, reason.into());
    }

    /// Returns whether all conditions are met.
    pub fn is_ready(&self) -> bool {
        self.pending.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Returns the conditions that are not met, each with its reason.
    pub fn reasons(&self) -> BTreeMap<&'static str, String> {
        self.pending.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Returns the routes `/health` (the process lives), `/ready` (it can do its work) and `/metrics`.
pub fn health_router(readiness: Readiness, metrics: Metrics) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready).with_state(readiness))
        .route("/metrics", get(scrape).with_state(metrics))
}

async fn health() -> Response {
    axum::Json(json!({ "status": "ok" })).into_response()
}

async fn ready(State(readiness): State<Readiness>) -> Response {
    let reasons = readiness.reasons();
    if reasons.is_empty() {
        return axum::Json(json!({ "status": "ready" })).into_response();
    }
    let body = axum::Json(json!({ "status": "not ready", "reasons": reasons }));
    (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
}

async fn scrape(State(metrics): State<Metrics>) -> Response {
    match metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, crate::metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "failed to encode the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
