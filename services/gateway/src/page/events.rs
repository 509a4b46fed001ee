//! `/fleet/events`: the state of the fleet every second, as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::Stream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;

use super::{NO_SNIFF, Page, WATCHERS_MAX};
use crate::error::ApiError;

/// Time between two states.
pub(super) const EVERY: Duration = Duration::from_secs(1);

/// One reader of the states. Its permit returns when the reader leaves.
struct Watcher {
    page: Arc<Page>,
    _permit: OwnedSemaphorePermit,
    /// True once the first state was sent.
    started: bool,
}

/// Streams states until the reader leaves or the gateway stops.
pub(super) async fn events(State(page): State<Arc<Page>>) -> Response {
    let Ok(permit) = Arc::clone(&page.watcher_permits).try_acquire_owned() else {
        let message = format!("{WATCHERS_MAX} readers follow the fleet, no more are taken");
        return ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message).into_response();
    };
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        NO_SNIFF,
    ];
    let states = states(Watcher { page, _permit: permit, started: false });
    (headers, Body::from_stream(states)).into_response()
}

fn states(watcher: Watcher) -> impl Stream<Item = Result<Bytes, Infallible>> {
    futures::stream::unfold(watcher, |mut watcher| async move {
        let stop = watcher.page.parts.stop.clone();
        let next = async {
            if std::mem::replace(&mut watcher.started, true) {
                sleep(EVERY).await;
            }
            watcher.page.state().await
        };
        let state = tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            state = next => state.ok()?,
        };
        Some((Ok(Bytes::from([b"data: ", &state[..], b"\n\n"].concat())), watcher))
    })
}
