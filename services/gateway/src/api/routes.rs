//! The routes, and the request id that every response carries.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use protocol::RequestId;
use serde_json::{Value, json};

use crate::api::app::App;
use crate::api::{generate, tokenize};
use crate::endpoint::Endpoint;
use crate::error::{ApiError, json_response};
use crate::page;

static REQUEST_ID: HeaderName = HeaderName::from_static(generate::REQUEST_ID);
/// Longest request id that is accepted from a client.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Returns the gateway's HTTP interface.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(completion))
        .route("/v1/models", get(models))
        .route("/v1/models/{*model}", get(model))
        .route("/tokenize", post(tokenize::tokenize))
        .route("/detokenize", post(tokenize::detokenize))
        .route("/health", get(health))
        .route("/ping", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/version", get(version))
        .merge(page::routes(Arc::clone(&app.page)))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn(identify))
        .with_state(app)
}

async fn chat(State(app): State<Arc<App>>, request: Request) -> Response {
    generate::generate(app, Endpoint::Chat, request).await
}

async fn completion(State(app): State<Arc<App>>, request: Request) -> Response {
    generate::generate(app, Endpoint::Completion, request).await
}

async fn models(State(app): State<Arc<App>>) -> Response {
    json_response(StatusCode::OK, &json!({ "object": "list", "data": [model_object(&app)] }))
}

async fn model(State(app): State<Arc<App>>, Path(name): Path<String>) -> Response {
    match app.check_model(Some(&name)) {
        Ok(()) => json_response(StatusCode::OK, &model_object(&app)),
        Err(error) => error.into_response(),
    }
}

fn model_object(app: &App) -> Value {
    let sampling = &app.text.sampling;
    json!({
        "id": app.text.model,
        "object": "model",
        "created": app.text.created_s,
        "owned_by": "tandem",
        "root": app.text.model,
        "parent": null,
        "max_model_len": app.max_model_len(),
        "vocab_size": app.text.vocabulary.size(),
        "default_sampling_params": {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            "repetition_penalty": sampling.repetition_penalty,
        },
    })
}

async fn health() -> Response {
    json_response(StatusCode::OK, &json!({ "status": "ok" }))
}

async fn ready(State(app): State<Arc<App>>) -> Response {
    match app.backend.readiness() {
        Ok(()) => json_response(StatusCode::OK, &json!({ "status": "ready" })),
        Err(reason) => {
            let body = json!({ "status": "not ready", "reasons": { "generation": reason } });
            json_response(StatusCode::SERVICE_UNAVAILABLE, &body)
        }
    }
}

async fn metrics(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    // A browser would save OpenMetrics to a file instead of showing it.
    let kind = match headers.get(header::ACCEPT).map(HeaderValue::as_bytes) {
        Some(kinds) if kinds.starts_with(b"text/html") => "text/plain; charset=utf-8",
        _ => chassis::metrics::CONTENT_TYPE,
    };
    match app.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, kind)], text).into_response(),
        Err(error) => {
            let message = format!("the metrics cannot be written: {error}");
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message).into_response()
        }
    }
}

async fn version() -> Response {
    json_response(StatusCode::OK, &json!({ "version": env!("CARGO_PKG_VERSION") }))
}

async fn not_found(request: Request) -> ApiError {
    let path: String = request.uri().path().chars().take(200).collect();
    ApiError::new(StatusCode::NOT_FOUND, format!("no such path: {path}"))
}

async fn method_not_allowed(request: Request) -> ApiError {
    let path: String = request.uri().path().chars().take(200).collect();
    let method = request.method();
    let message = format!("method {method} is not allowed for {path}");
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message)
}

/// Gives every response the client's request id, or a random one if the client sent none that is
/// plain ASCII.
async fn identify(mut request: Request<Body>, next: Next) -> Response {
    let id = request.headers().get(&REQUEST_ID).filter(|id| is_plain(id)).cloned();
    let id = id.unwrap_or_else(|| {
        let id = RequestId(rand::random()).to_string();
        HeaderValue::from_str(&id).expect("hexadecimal digits are visible ASCII")
    });
    request.headers_mut().insert(REQUEST_ID.clone(), id.clone());
    let mut response = next.run(request).await;
    response.headers_mut().insert(REQUEST_ID.clone(), id);
    response
}

fn is_plain(id: &HeaderValue) -> bool {
    let bytes = id.as_bytes();
    (1..=REQUEST_ID_BYTES_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
}
