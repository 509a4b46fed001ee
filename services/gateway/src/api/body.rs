//! Request bodies, read within a size and a time.

use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::http::StatusCode;
use bytes::Bytes;
use futures::StreamExt as _;

use crate::api::app::Limits;
use crate::error::ApiError;

/// A body that is too long is drained up to this many times the limit, so that its sender reads the
/// response instead of seeing a reset connection.
const DRAINED_TIMES: usize = 4;

/// Reads the whole body, or returns 408, 413 or 400.
pub(crate) async fn read(body: Body, limits: &Limits) -> Result<Bytes, ApiError> {
    let Limits { max_body_bytes, body_timeout, .. } = *limits;
    match tokio::time::timeout(body_timeout, within(body, max_body_bytes)).await {
        Ok(body) => body,
        Err(_) => Err(late(body_timeout)),
    }
}

fn late(timeout: Duration) -> ApiError {
    let seconds = timeout.as_secs_f32();
    let message = format!("the body did not arrive within {seconds} s");
    ApiError::new(StatusCode::REQUEST_TIMEOUT, message)
}

async fn within(body: Body, bytes_max: usize) -> Result<Bytes, ApiError> {
    let announced = body.size_hint().lower();
    let mut bytes = Vec::with_capacity(usize::try_from(announced).unwrap_or(0).min(bytes_max));
    let mut total = 0;
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk
            .map_err(|error| ApiError::malformed(format!("body could not be read: {error}")))?;
        total += chunk.len();
        if total <= bytes_max {
            bytes.extend_from_slice(&chunk);
        } else if total > DRAINED_TIMES * bytes_max {
            break;
        }
    }
    if total > bytes_max {
        let message = format!("body is longer than {bytes_max} bytes");
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message));
    }
    Ok(bytes.into())
}
