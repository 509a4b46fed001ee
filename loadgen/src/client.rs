//! The HTTP client: one streamed completion with its stamps, and the list of models.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;

use crate::body::Endpoint;
use crate::clock::Clock;
use crate::live::Live;
use crate::record::{Failure, FailureClass, RequestRecord};
use crate::reply::{ReplyError, error_message, shorten};
use crate::sse::SseDecoder;
use crate::stages::{TIMINGS_HEADER, TIMINGS_STAGES};

/// The most bytes read of an error answer or of the list of models.
const MAX_PLAIN_BYTES: usize = 1 << 20;
const NOT_WRITTEN: i64 = i64::MIN;

/// Why the server cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The base URL is not one.
    #[error("{0:?} is not an http:// URL")]
    Url(String),
    /// A header of the command line is not one.
    #[error("{0:?} is not a header: write NAME: VALUE")]
    Header(String),
    /// The client could not be set up.
    #[error("http client: {0}")]
    Setup(#[source] reqwest::Error),
    /// The server does not answer.
    #[error("no answer from {url}: {message}")]
    Unreachable {
        /// Where it was asked.
        url: String,
        /// The chain of causes.
        message: String,
    },
    /// The answer is not a list of models.
    #[error("{url} does not list models: {message}")]
    Models {
        /// Where it was asked.
        url: String,
        /// What is wrong.
        message: String,
    },
}

/// A model that the server offers.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct ModelInfo {
    /// Its name.
    pub id: String,
    /// Prompt and output tokens it can hold together, if the server says.
    pub max_model_len: Option<u32>,
}

/// What one request sends besides its stamps.
#[derive(Clone, Debug)]
pub struct Call {
    /// Which API it goes to.
    pub endpoint: Endpoint,
    /// The JSON body.
    pub body: Bytes,
    /// W3C trace context.
    pub traceparent: String,
    /// Notes when a ready connection takes the body.
    pub written: Written,
}

/// When a body was taken, known even if the request is cut off later.
#[derive(Clone, Debug)]
pub struct Written(Arc<AtomicI64>);

impl Default for Written {
    fn default() -> Self {
        Self(Arc::new(AtomicI64::new(NOT_WRITTEN)))
    }
}

impl Written {
    /// The time, once there is one.
    pub fn at_ns(&self) -> Option<i64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|at| *at != NOT_WRITTEN)
    }

    fn note(&self, now_ns: i64) {
        self.0.store(now_ns, Ordering::Relaxed);
    }
}

/// A client for one server.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    headers: HeaderMap,
    run_id: String,
}

impl Client {
    /// A client for `base` (with or without `/v1`), which sends `headers` with every request.
    pub fn new(
        base: &str,
        headers: &[String],
        connect_timeout: Duration,
        run_id: &str,
    ) -> Result<Self, ClientError> {
        let base = base.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches('/');
        let parsed = reqwest::Url::parse(base).ok().filter(|url| url.scheme() == "http");
        if parsed.is_none_or(|url| url.host().is_none()) {
            return Err(ClientError::Url(base.to_owned()));
        }
        let http = reqwest::Client::builder()
            .no_proxy()
            .tcp_nodelay(true)
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(connect_timeout)
            .build()
            .map_err(ClientError::Setup)?;
        let headers = headers.iter().map(|text| header(text)).collect::<Result<_, _>>()?;
        Ok(Self { http, base: base.to_owned(), headers, run_id: run_id.to_owned() })
    }

    /// The base URL, without `/v1`.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The run that its requests belong to.
    pub fn run_id(&self) -> &str {
        &self.run_id
    }

    /// Asks for the list of models.
    pub async fn models(&self, timeout: Duration) -> Result<Vec<ModelInfo>, ClientError> {
        #[derive(Deserialize)]
        struct List {
            data: Vec<ModelInfo>,
        }
        let url = format!("{}/v1/models", self.base);
        let models = |message: String| ClientError::Models { url: url.clone(), message };
        let request = self.http.get(&url).headers(self.headers.clone()).timeout(timeout);
        let response = request.send().await;
        let mut response = response
            .map_err(|e| ClientError::Unreachable { url: url.clone(), message: chain(&e) })?;
        let status = response.status();
        let text = plain_body(&mut response).await;
        if !status.is_success() {
            return Err(models(format!("http {}: {}", status.as_u16(), shorten(&text))));
        }
        let list: List = serde_json::from_str(&text).map_err(|e| models(e.to_string()))?;
        Ok(list.data)
    }

    /// Sends one request and reads its stream to the end, filling in `record` as it goes. The
    /// caller bounds the time; what is in `record` by then stays.
    pub async fn exchange(
        &self,
        call: Call,
        clock: Clock,
        live: &Live,
        record: &mut RequestRecord,
    ) -> Result<(), Failure> {
        let request = self
            .http
            .post(format!("{}{}", self.base, call.endpoint.path()))
            .headers(self.headers.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(CONTENT_LENGTH, call.body.len())
            .header("traceparent", call.traceparent)
            .header("baggage", format!("loadgen.run_id={}", self.run_id))
            .header("x-request-id", &record.request_id)
            .header(TIMINGS_HEADER, TIMINGS_STAGES)
            .body(stamped(call.body, clock, call.written));
        record.dispatched_ns = Some(clock.now_ns());
        live.sent();
        let response = request.send().await.map_err(|e| transport_failure(&e))?;
        read_stream(response, clock, live, record).await
    }
}

/// A body that notes when the connection takes it: after connecting, behind the head.
fn stamped(body: Bytes, clock: Clock, written: Written) -> reqwest::Body {
    reqwest::Body::wrap_stream(futures::stream::once(async move {
        written.note(clock.now_ns());
        Ok::<_, std::convert::Infallible>(body)
    }))
}

async fn read_stream(
    mut response: reqwest::Response,
    clock: Clock,
    live: &Live,
    record: &mut RequestRecord,
) -> Result<(), Failure> {
    let status = response.status().as_u16();
    if status != 200 {
        let text = plain_body(&mut response).await;
        let message = serde_json::from_str(&text).map_or(shorten(&text), |v| error_message(&v));
        return Err(Failure { class: FailureClass::Http(status), message });
    }
    let kind = response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    if !kind.starts_with("text/event-stream") {
        let message = format!("content-type {kind:?} instead of text/event-stream");
        return Err(Failure { class: FailureClass::Malformed, message });
    }
    let mut decoder = SseDecoder::default();
    let mut events = Vec::new();
    while let Some(bytes) = response.chunk().await.map_err(|e| transport_failure(&e))? {
        let now_ns = clock.now_ns();
        let before = record.reply.token_at_ns.len();
        let pushed = decoder.push(&bytes, &mut events);
        for event in events.drain(..) {
            record.reply.accept(&event, now_ns).map_err(reply_failure)?;
        }
        live.tokens((record.reply.token_at_ns.len() - before) as u64);
        pushed.map_err(|e| malformed(e.to_string()))?;
    }
    record.reply.check_end().map_err(reply_failure)
}

async fn plain_body(response: &mut reqwest::Response) -> String {
    let mut body = Vec::new();
    while let Ok(Some(bytes)) = response.chunk().await {
        let room = MAX_PLAIN_BYTES - body.len();
        body.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if body.len() == MAX_PLAIN_BYTES {
            break;
        }
    }
    String::from_utf8_lossy(&body).into_owned()
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), ClientError> {
    let bad = || ClientError::Header(text.to_owned());
    let (name, value) = text.split_once(':').ok_or_else(bad)?;
    let name = name.trim().parse().map_err(|_| bad())?;
    Ok((name, value.trim().parse().map_err(|_| bad())?))
}

fn malformed(message: String) -> Failure {
    Failure { class: FailureClass::Malformed, message }
}

fn reply_failure(error: ReplyError) -> Failure {
    let class = match error {
        ReplyError::Server(_) => FailureClass::SseError,
        ReplyError::Malformed(_) => FailureClass::Malformed,
        ReplyError::Truncated { .. } => FailureClass::Truncated,
    };
    Failure { class, message: error.to_string() }
}

fn transport_failure(error: &reqwest::Error) -> Failure {
    let class = if error.is_connect() {
        FailureClass::Connect
    } else if error.is_timeout() {
        FailureClass::Timeout
    } else {
        FailureClass::Broken
    };
    Failure { class, message: chain(error) }
}

/// The messages of an error and of what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut causes = vec![error.to_string()];
    let mut source = error.source();
    while let Some(cause) = source {
        causes.push(cause.to_string());
        source = cause.source();
    }
    causes.dedup();
    shorten(&causes.join(": "))
}
