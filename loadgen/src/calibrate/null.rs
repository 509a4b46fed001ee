//! The null server: an OpenAI API that computes nothing and sends tokens at given times. A load
//! generator must measure exactly those times.

mod answer;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::{Frame, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};

use crate::send::stages::{TIMINGS_HEADER, TIMINGS_STAGES};
use answer::{Chunks, Completion, Times};

/// Largest body of a request.
const BODY_BYTES_MAX: usize = 64 << 20;

/// Settings of the null server.
#[derive(Clone, Debug)]
pub struct NullOptions {
    /// Time from a free slot to the first token.
    pub ttft: Duration,
    /// Additional time to the first token per token of the prompt.
    pub ttft_per_token: Duration,
    /// Time from one token to the next.
    pub itl: Duration,
    /// Number of tokens for a request without a limit.
    pub tokens: u32,
    /// Number of requests served at once, if limited. The others wait in order.
    pub slots: Option<usize>,
    /// Largest sum of prompt and output tokens of a request.
    pub context: u32,
    /// Name of the model.
    pub model: String,
}

impl Default for NullOptions {
    fn default() -> Self {
        Self {
            ttft: Duration::from_millis(20),
            ttft_per_token: Duration::ZERO,
            itl: Duration::from_millis(10),
            tokens: 32,
            slots: None,
            context: 131_072,
            model: "null".to_owned(),
        }
    }
}

struct Shared {
    options: NullOptions,
    chunks: [Chunks; 2],
    slots: Option<Arc<Semaphore>>,
}

/// A running null server. Dropping it ends it.
#[derive(Debug)]
pub struct NullServer {
    address: SocketAddr,
    tasks: JoinSet<io::Error>,
}

impl NullServer {
    /// Starts a server at `address`. Port 0 is any free port.
    pub async fn start(address: &str, options: NullOptions) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let chunks = [false, true].map(|chat| Chunks::new(&options.model, chat));
        let slots = options.slots.map(|slots| Arc::new(Semaphore::new(slots)));
        let shared = Arc::new(Shared { options, chunks, slots });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, shared));
        Ok(Self { address, tasks })
    }

    /// Returns the address of the server.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the base URL of the server.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits until the server can no longer accept connections. Returns the error.
    pub async fn failed(&mut self) -> io::Error {
        match self.tasks.join_next().await {
            Some(Ok(error)) => error,
            Some(Err(error)) => io::Error::other(error),
            None => io::Error::other("the server was started without a task"),
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) -> io::Error {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => { connections.spawn(serve(stream, shared.clone())); }
                Err(error) => return error,
            },
            // The end of a client, for whatever reason, ends only its own connection.
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let service = service_fn(|request| respond(shared.clone(), request));
    Ok(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await?)
}

/// Body of a response: all at once, or a stream of tokens.
type Body = Either<Full<Bytes>, TokenStream>;

async fn respond(shared: Arc<Shared>, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let (head, body) = request.into_parts();
    let chat = match (&head.method, head.uri.path()) {
        (&Method::POST, "/v1/completions") => false,
        (&Method::POST, "/v1/chat/completions") => true,
        (&Method::GET, "/v1/models") => {
            let options = &shared.options;
            let model = json!({ "id": options.model, "object": "model", "created": 0,
                "owned_by": "loadgen", "max_model_len": options.context });
            let list = json!({ "object": "list", "data": [model] });
            return Ok(whole(StatusCode::OK, &list));
        }
        (&Method::GET, "/health" | "/ready") => {
            return Ok(whole(StatusCode::OK, &json!({ "status": "ok" })));
        }
        (method, path) => {
            return Ok(refuse(StatusCode::NOT_FOUND, &format!("there is no {method} {path} here")));
        }
    };
    let body = match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return Ok(refuse(StatusCode::BAD_REQUEST, &error.to_string())),
    };
    let arrived = Instant::now();
    let completion = match Completion::parse(&body, &shared.options) {
        Ok(completion) => completion,
        Err(message) => return Ok(refuse(StatusCode::BAD_REQUEST, &message)),
    };
    let slot = match &shared.slots {
        Some(slots) => Some(slots.clone().acquire_owned().await.map_err(io::Error::other)?),
        None => None,
    };
    let options = &shared.options;
    let started = Instant::now();
    let first = started + options.ttft + options.ttft_per_token * completion.prompt_tokens;
    tokio::time::sleep_until(first).await;
    let stages = head.headers.get(TIMINGS_HEADER).is_some_and(|value| value == TIMINGS_STAGES);
    let times = Times { arrived, started, first: Instant::now() };
    if completion.stream {
        let timer = Box::pin(tokio::time::sleep_until(first));
        let stream =
            TokenStream { shared, completion, chat, stages, times, first, sent: 0, timer, slot };
        let mut response = Response::new(Either::Right(stream));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        return Ok(response);
    }
    tokio::time::sleep_until(first + options.itl * (completion.output_tokens - 1)).await;
    let timings = stages.then(|| answer::timings(times, Instant::now()));
    let value = answer::whole(&completion, &options.model, chat, timings);
    Ok(whole(StatusCode::OK, &value))
}

/// A stream of tokens, each at its time, and the ending. The first token is due when the stream is
/// made, so that it leaves with the head of the response.
struct TokenStream {
    shared: Arc<Shared>,
    completion: Completion,
    chat: bool,
    stages: bool,
    times: Times,
    /// Intended time of the first token.
    first: Instant,
    /// Tokens sent; one more once the ending is sent.
    sent: u32,
    timer: Pin<Box<Sleep>>,
    /// Slot of the request, until the stream ends.
    slot: Option<OwnedSemaphorePermit>,
}

impl hyper::body::Body for TokenStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let stream = &mut *self;
        let tokens = stream.completion.output_tokens;
        if stream.sent > tokens {
            return Poll::Ready(None);
        }
        // Every token has a time of its own, so that a late one delays no other. The ending follows
        // the last token at once.
        let due = stream.first + stream.shared.options.itl * stream.sent.min(tokens - 1);
        if due > Instant::now() {
            if stream.timer.deadline() != due {
                stream.timer.as_mut().reset(due);
            }
            std::task::ready!(stream.timer.as_mut().poll(cx));
        }
        let chunks = &stream.shared.chunks[usize::from(stream.chat)];
        let data = if stream.sent < tokens {
            chunks.token.clone()
        } else {
            stream.slot = None;
            let timings = stream.stages.then(|| answer::timings(stream.times, Instant::now()));
            Bytes::from(chunks.ending(&stream.completion, timings))
        };
        stream.sent += 1;
        Poll::Ready(Some(Ok(Frame::data(data))))
    }
}

/// Returns a JSON response.
fn whole(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::from(value.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Returns an error response.
fn refuse(status: StatusCode, message: &str) -> Response<Body> {
    let error = json!({ "message": message, "type": "invalid_request_error" });
    whole(status, &json!({ "error": error }))
}
