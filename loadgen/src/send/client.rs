//! The HTTP client: one streamed completion with its time stamps, and the list of models.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue,
    InvalidHeaderValue,
};
use hyper::{Method, Request, Response, Uri};
use serde::Deserialize;

use crate::plan::body::Endpoint;
use crate::send::clock::Clock;
use crate::send::connection::{ConnectError, Connection, Pool};
use crate::send::live::Live;
use crate::send::record::{Failure, FailureClass, RequestRecord};
use crate::send::reply::{ReplyError, error_message, shorten};
use crate::send::sse::{SseDecoder, SseError};
use crate::send::stages::{TIMINGS_HEADER, TIMINGS_STAGES};
use crate::send::tls::{Tls, TlsError};

/// Largest number of bytes read of an error response or of the list of models.
const PLAIN_BYTES_MAX: usize = 1 << 20;

/// Types of the responses that are read whole.
const PLAIN_TYPES: &str = "application/json, text/plain;version=0.0.4";

/// A server that cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message of a variant names its fields")]
pub enum ClientError {
    /// The base URL is not an HTTP URL.
    #[error("{0:?} is not an http:// or https:// URL")]
    Url(String),
    /// Authorities were given for a server without TLS.
    #[error("--ca-file is for https://, and {0:?} is not")]
    NoTls(String),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A header of the command line is not a header.
    #[error("{0:?} is not a header: write NAME: VALUE")]
    Header(String),
    /// The server does not respond.
    #[error("no answer from {url}: {message}")]
    Unreachable { url: String, message: String },
    /// The response is no metrics that are known.
    #[error("{url} has no metrics to record: {message}")]
    Metrics { url: String, message: String },
    /// The response is not a list of models.
    #[error("{url} does not list models: {message}")]
    Models { url: String, message: String },
}

/// A model that the server offers.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct ModelInfo {
    /// Id of the model.
    pub id: String,
    /// Largest sum of prompt and output tokens, if the server reports it.
    pub max_model_len: Option<u32>,
    /// Number of token ids, if the server reports it.
    pub vocab_size: Option<u32>,
}

/// Content of one request.
#[derive(Clone, Debug)]
pub struct Call {
    /// Endpoint of the request.
    pub endpoint: Endpoint,
    /// JSON body.
    pub body: Bytes,
    /// W3C trace context.
    pub traceparent: String,
}

/// A client for one server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    pool: Arc<Pool>,
    base: String,
    /// Path of the base URL, before `/v1`.
    prefix: String,
    headers: HeaderMap,
    run_id: String,
}

/// Address of a server, and what every request to it carries.
#[derive(Clone, Copy, Debug)]
pub struct ServerAddress<'a> {
    /// Base URL, with or without `/v1`.
    pub base: &'a str,
    /// Certificates of the authorities that an `https` server is checked against, instead of the
    /// system's.
    pub ca_file: Option<&'a Path>,
    /// Value of the header `authorization`.
    pub authorization: Option<&'a HeaderValue>,
    /// Further headers, NAME: VALUE. They replace those above.
    pub headers: &'a [String],
}

impl<'a> ServerAddress<'a> {
    /// Returns the server at `base`, without authorization or further headers.
    pub fn at(base: &'a str) -> Self {
        Self { base, ca_file: None, authorization: None, headers: &[] }
    }
}

impl Client {
    /// Creates a client for `server`. `run_id` is sent with every request.
    pub fn new(
        server: ServerAddress<'_>,
        connect_timeout: Duration,
        run_id: &str,
    ) -> Result<Self, ClientError> {
        let ServerAddress { base, ca_file, .. } = server;
        let base = base.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches('/');
        let wrong = || ClientError::Url(base.to_owned());
        let url: Uri = base.parse().map_err(|_| wrong())?;
        let host = url.host().ok_or_else(wrong)?;
        if url.query().is_some() {
            return Err(wrong());
        }
        let (tls, port) = match (url.scheme_str(), ca_file) {
            (Some("https"), _) => (Some(Tls::new(host, ca_file)?), 443),
            (Some("http"), None) => (None, 80),
            (Some("http"), Some(_)) => return Err(ClientError::NoTls(base.to_owned())),
            _ => return Err(wrong()),
        };
        let authority = format!("{host}:{}", url.port_u16().unwrap_or(port));
        let own = |value: &str| value.parse().map_err(|_: InvalidHeaderValue| wrong());
        let mut all = HeaderMap::new();
        all.insert(HOST, own(url.authority().map_or(host, |authority| authority.as_str()))?);
        all.insert(TIMINGS_HEADER, HeaderValue::from_static(TIMINGS_STAGES));
        all.insert("baggage", own(&format!("loadgen.run_id={run_id}"))?);
        if let Some(value) = server.authorization {
            all.insert(AUTHORIZATION, value.clone());
        }
        for text in server.headers {
            let (name, value) = header(text)?;
            all.insert(name, value);
        }
        Ok(Self {
            pool: Arc::new(Pool::new(authority, connect_timeout, tls)),
            base: base.to_owned(),
            prefix: url.path().trim_end_matches('/').to_owned(),
            headers: all,
            run_id: run_id.to_owned(),
        })
    }

    /// Returns the base URL, without `/v1`.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Returns the id of the run that the requests belong to.
    pub fn run_id(&self) -> &str {
        &self.run_id
    }

    /// Returns the number of connections opened so far.
    pub fn connections_opened(&self) -> u64 {
        self.pool.opened()
    }

    /// Fetches the list of models.
    pub async fn models(&self, timeout: Duration) -> Result<Vec<ModelInfo>, ClientError> {
        #[derive(Deserialize)]
        struct List {
            data: Vec<ModelInfo>,
        }
        let url = format!("{}/v1/models", self.base);
        let models = |message: String| ClientError::Models { url: url.clone(), message };
        let (status, text) = self.get("/v1/models", timeout).await?;
        if status != 200 {
            return Err(models(format!("http {status}: {}", shorten(&text))));
        }
        let list: List = serde_json::from_str(&text).map_err(|e| models(e.to_string()))?;
        Ok(list.data)
    }

    /// Fetches `/metrics` in Prometheus' text format.
    pub async fn metrics(&self, timeout: Duration) -> Result<String, ClientError> {
        let (status, text) = self.get("/metrics", timeout).await?;
        if status != 200 {
            let url = format!("{}/metrics", self.base);
            return Err(ClientError::Metrics { url, message: format!("http {status}") });
        }
        Ok(text)
    }

    /// Sends a `GET`; returns the status and the body of the response.
    async fn get(&self, path: &str, timeout: Duration) -> Result<(u16, String), ClientError> {
        let unreachable =
            |message| ClientError::Unreachable { url: format!("{}{path}", self.base), message };
        let asked = tokio::time::timeout(timeout, self.fetch(path)).await;
        let answer = asked.map_err(|_| unreachable(format!("nothing after {timeout:?}")))?;
        answer.map_err(|failure| unreachable(failure.message))
    }

    async fn fetch(&self, path: &str) -> Result<(u16, String), Failure> {
        let mut request = self.request(Method::GET, path, Bytes::new())?;
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static(PLAIN_TYPES));
        let mut connection = self.pool.take().await.map_err(|e| no_connection(&e))?;
        let answer = connection.send(request, |_| {}).await.map_err(|e| broken(&e))?;
        let (status, mut body) = (answer.status().as_u16(), answer.into_body());
        Ok((status, plain_body(&mut connection, &mut body).await))
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, Failure> {
        let uri = format!("{}{path}", self.prefix);
        let built = Request::builder().method(method).uri(uri).body(Full::new(body));
        let mut request = built.map_err(|e| malformed(e.to_string()))?;
        *request.headers_mut() = self.headers.clone();
        Ok(request)
    }

    /// Sends one request and reads its stream to the end, filling in `record` on the way. The
    /// caller sets the time limit by dropping the future, and `record` then has everything up to
    /// that moment.
    pub async fn exchange(
        &self,
        call: Call,
        clock: Clock,
        live: &Live,
        record: &mut RequestRecord,
    ) -> Result<(), Failure> {
        let mut request = self.request(Method::POST, call.endpoint.path(), call.body)?;
        let own =
            |value: &str| value.parse().map_err(|e: InvalidHeaderValue| malformed(e.to_string()));
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert("traceparent", own(&call.traceparent)?);
        headers.insert("x-request-id", own(&record.request_id)?);
        record.dispatched_ns = Some(clock.now_ns());
        live.sent();
        let mut connection = self.pool.take().await.map_err(|e| no_connection(&e))?;
        let written = &mut record.written_ns;
        let answer = connection
            .send(request, |at: Option<_>| *written = written.or(at.map(|at| clock.ns_of(at))))
            .await;
        record.first_byte_ns = connection.first_read().map(|at| clock.ns_of(at));
        let answer = answer.map_err(|e| broken(&e))?;
        read_stream(&mut connection, answer, clock, live, record).await?;
        self.pool.give_back(connection).await;
        Ok(())
    }
}

async fn read_stream(
    connection: &mut Connection,
    answer: Response<Incoming>,
    clock: Clock,
    live: &Live,
    record: &mut RequestRecord,
) -> Result<(), Failure> {
    let (head, mut body) = answer.into_parts();
    let status = head.status.as_u16();
    if status != 200 {
        let text = plain_body(connection, &mut body).await;
        let message = serde_json::from_str(&text).map_or(shorten(&text), |v| error_message(&v));
        return Err(Failure { class: FailureClass::Http(status), message });
    }
    let kind = head.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    if !kind.starts_with("text/event-stream") {
        let message = format!("content-type {kind:?} instead of text/event-stream");
        return Err(malformed(message));
    }
    let mut decoder = SseDecoder::default();
    let reply = &mut record.reply;
    while let Some(bytes) = connection.next(&mut body).await.map_err(|e| broken(&e))? {
        let now_ns = connection.last_read().map_or_else(|| clock.now_ns(), |at| clock.ns_of(at));
        let before = reply.tokens.len();
        let read =
            decoder.push(&bytes, |event| reply.accept(event, now_ns).map_err(StreamError::Reply));
        if before == 0 && !reply.tokens.is_empty() {
            live.first_token();
        }
        live.tokens((reply.tokens.len() - before) as u64);
        read.map_err(Failure::from)?;
    }
    if let Some(data) = decoder.unfinished() {
        reply.accept_unfinished(&data);
    }
    reply.check_end().map_err(|e| StreamError::Reply(e).into())
}

/// An error that ends the reading of a stream.
enum StreamError {
    Events(SseError),
    Reply(ReplyError),
}

impl From<SseError> for StreamError {
    fn from(error: SseError) -> Self {
        Self::Events(error)
    }
}

impl From<StreamError> for Failure {
    fn from(error: StreamError) -> Self {
        let (class, message) = match error {
            StreamError::Events(error) => (FailureClass::Malformed, error.to_string()),
            StreamError::Reply(error) => {
                let class = match error {
                    ReplyError::Server(_) => FailureClass::SseError,
                    ReplyError::Malformed(_) => FailureClass::Malformed,
                    ReplyError::Truncated { .. } => FailureClass::Truncated,
                    ReplyError::GivenUp { .. } => FailureClass::GivenUp,
                    ReplyError::Empty { .. } => FailureClass::Empty,
                };
                (class, error.to_string())
            }
        };
        Self { class, message }
    }
}

/// Reads a body that is not a stream, up to a limit.
async fn plain_body(connection: &mut Connection, body: &mut Incoming) -> String {
    let mut all = Vec::new();
    while let Ok(Some(bytes)) = connection.next(body).await {
        let room = PLAIN_BYTES_MAX - all.len();
        all.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if all.len() == PLAIN_BYTES_MAX {
            break;
        }
    }
    String::from_utf8_lossy(&all).into_owned()
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

fn no_connection(error: &ConnectError) -> Failure {
    Failure { class: FailureClass::Connect, message: shorten(&error.to_string()) }
}

/// Describes a connection that broke, or that has another protocol than HTTP.
fn broken(error: &hyper::Error) -> Failure {
    let class = if error.is_parse() { FailureClass::Malformed } else { FailureClass::Broken };
    let mut causes = vec![error.to_string()];
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        causes.push(cause.to_string());
        source = cause.source();
    }
    causes.dedup();
    Failure { class, message: shorten(&causes.join(": ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_http_is_refused() {
        let client = |base: &str| Client::new(ServerAddress::at(base), Duration::from_secs(1), "r");
        for wrong in ["a", "http://", "http://a/?q=1", "ftp://a"] {
            assert!(matches!(client(wrong), Err(ClientError::Url(_))), "{wrong}");
        }
        let under = client("http://a:81/x/v1/").unwrap();
        assert_eq!((under.base(), under.prefix.as_str()), ("http://a:81/x", "/x"));
    }
}
