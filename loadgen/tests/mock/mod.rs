//! A small server with just enough of the OpenAI API, which misbehaves on request.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

/// Response of the server to one completion.
#[derive(Clone)]
pub(crate) enum Act {
    /// Streams the requested number of tokens.
    Stream { first: Duration, gap: Duration },
    /// Waits until this many requests have arrived, then streams.
    Together(Arc<Barrier>),
    /// Responds with a status and an error object.
    Status(u16),
    /// Never responds.
    Hang,
    /// Streams two tokens, then an error event and `[DONE]`.
    ErrorEvent,
    /// Streams one token, then ends.
    Truncate,
    /// Streams an event that is not JSON.
    Junk,
    /// Responds in JSON, although a stream was requested.
    NoStream,
    /// Closes the connection without a response.
    Close,
    /// Sends these pieces of a stream, each after a wait, and ends the body cleanly.
    Pieces(&'static [(Duration, &'static str)]),
}

/// A received completion request.
pub(crate) struct Seen {
    pub(crate) head: String,
    pub(crate) body: Value,
}

#[derive(Default)]
struct State {
    seen: Mutex<Vec<Seen>>,
    /// Hashes of all prefixes of whole 16-token blocks: an infinite prefix cache.
    stored: Mutex<HashSet<Vec<u64>>>,
    lists_nothing: AtomicBool,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
}

/// A running server. Dropping it ends it.
pub(crate) struct Mock {
    pub(crate) url: String,
    state: Arc<State>,
    _server: JoinSet<()>,
}

type Behavior = Arc<dyn Fn(usize) -> Act + Send + Sync>;

impl Mock {
    /// Starts a server that responds to the n-th completion with `behavior(n)`.
    pub(crate) async fn start(
        context: Option<u32>,
        behavior: impl Fn(usize) -> Act + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State::default());
        let mut server = JoinSet::new();
        server.spawn(accept(listener, state.clone(), Arc::new(behavior), context));
        Self { url, state, _server: server }
    }

    /// Returns the received requests, in order.
    pub(crate) fn seen(&self) -> std::sync::MutexGuard<'_, Vec<Seen>> {
        self.state.seen.lock().unwrap()
    }

    /// From now on, there is no list of models.
    pub(crate) fn list_nothing(&self) {
        self.state.lists_nothing.store(true, Ordering::SeqCst);
    }

    /// Returns the largest number of completions in flight.
    pub(crate) fn most_in_flight(&self) -> usize {
        self.state.most_in_flight.load(Ordering::SeqCst)
    }
}

async fn accept(
    listener: TcpListener,
    state: Arc<State>,
    behavior: Behavior,
    context: Option<u32>,
) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        connections.spawn(serve(stream, state.clone(), behavior.clone(), context));
    }
}

async fn serve(mut stream: TcpStream, state: Arc<State>, behavior: Behavior, context: Option<u32>) {
    let mut buffer = Vec::new();
    while let Some((head, body)) = read_request(&mut stream, &mut buffer).await {
        if head.starts_with("GET /v1/models") && state.lists_nothing.load(Ordering::SeqCst) {
            plain(&mut stream, "404 Not Found", r#"{"detail":"Not Found"}"#).await;
            continue;
        }
        if head.starts_with("GET /v1/models") {
            let model = json!({ "id": "mock", "object": "model", "max_model_len": context });
            let list = json!({ "object": "list", "data": [model] }).to_string();
            plain(&mut stream, "200 OK", &list).await;
            continue;
        }
        if head.starts_with("GET /metrics") {
            let running = state.in_flight.load(Ordering::SeqCst);
            let gauges = format!(
                "# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running {running}\n\
                 vllm:num_requests_waiting{{engine=\"0\"}} 3\nvllm:kv_cache_usage_perc 0.5\n"
            );
            plain(&mut stream, "200 OK", &gauges).await;
            continue;
        }
        let body: Value = serde_json::from_slice(&body).unwrap();
        let index = {
            let mut seen = state.seen.lock().unwrap();
            seen.push(Seen { head, body: body.clone() });
            seen.len() - 1
        };
        let now = state.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        state.most_in_flight.fetch_max(now, Ordering::SeqCst);
        let goes_on = answer(&mut stream, &state, &body, behavior(index)).await;
        state.in_flight.fetch_sub(1, Ordering::SeqCst);
        if !goes_on {
            return;
        }
    }
}

/// Reads one request with a `content-length`.
async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
    loop {
        if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8(buffer[..end].to_vec()).unwrap().to_lowercase();
            let head = head.replacen("get ", "GET ", 1).replacen("post ", "POST ", 1);
            let length = head.lines().find_map(|l| l.strip_prefix("content-length: "));
            let length: usize = length.map_or(0, |text| text.parse().unwrap());
            while buffer.len() < end + 4 + length {
                if stream.read_buf(buffer).await.ok()? == 0 {
                    return None;
                }
            }
            let body = buffer[end + 4..end + 4 + length].to_vec();
            buffer.drain(..end + 4 + length);
            return Some((head, body));
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

async fn plain(stream: &mut TcpStream, status: &str, body: &str) {
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
}

/// Responds to one completion; returns whether the connection stays open.
async fn answer(stream: &mut TcpStream, state: &State, body: &Value, act: Act) -> bool {
    let asked = body["max_tokens"].as_u64().unwrap() as usize;
    let (pace, tokens, end) = match act {
        Act::Status(code) => {
            let error = json!({ "error": { "message": "no room", "type": "overloaded" } });
            plain(stream, &format!("{code} Refused"), &error.to_string()).await;
            return true;
        }
        Act::NoStream => {
            plain(stream, "200 OK", r#"{"choices":[{"text":"all at once"}]}"#).await;
            return true;
        }
        Act::Hang => std::future::pending().await,
        Act::Close => return false,
        Act::Pieces(pieces) => return send_pieces(stream, pieces).await,
        Act::Together(barrier) => {
            barrier.wait().await;
            (Pace::default(), asked, End::Done)
        }
        Act::Stream { first, gap } => (Pace { first, gap }, asked, End::Done),
        Act::ErrorEvent => (Pace::default(), 2, End::Error),
        Act::Truncate => (Pace::default(), 1, End::Cut),
        Act::Junk => (Pace::default(), 0, End::Junk),
    };
    let usage = usage(state, body, asked);
    let sent = stream_tokens(stream, body, pace, tokens).await;
    let last = match end {
        End::Done => {
            chunk(&json!({ "choices": [], "usage": usage })) + &event("[DONE]") + "0\r\n\r\n"
        }
        End::Error => {
            chunk(&json!({ "error": { "message": "worker died" } }))
                + &event("[DONE]")
                + "0\r\n\r\n"
        }
        End::Junk => event("{{{") + "0\r\n\r\n",
        End::Cut => "0\r\n\r\n".to_owned(),
    };
    sent && stream.write_all(last.as_bytes()).await.is_ok()
}

/// The waits before the first token, and before each further one.
#[derive(Default)]
struct Pace {
    first: Duration,
    gap: Duration,
}

const STREAM_HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

async fn send_pieces(stream: &mut TcpStream, pieces: &[(Duration, &str)]) -> bool {
    if stream.write_all(STREAM_HEAD.as_bytes()).await.is_err() {
        return false;
    }
    for (wait, text) in pieces {
        if !wait.is_zero() {
            tokio::time::sleep(*wait).await;
        }
        let piece = format!("{:x}\r\n{text}\r\n", text.len());
        if stream.write_all(piece.as_bytes()).await.is_err() {
            return false;
        }
    }
    stream.write_all(b"0\r\n\r\n").await.is_ok()
}

enum End {
    Done,
    Error,
    Cut,
    Junk,
}

async fn stream_tokens(stream: &mut TcpStream, body: &Value, pace: Pace, tokens: usize) -> bool {
    if stream.write_all(STREAM_HEAD.as_bytes()).await.is_err() {
        return false;
    }
    let chat = body["messages"].is_array();
    for at in 0..tokens {
        let wait = if at == 0 { pace.first } else { pace.gap };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        let finish = (at + 1 == tokens).then_some("length");
        let choice = if chat {
            json!({ "index": 0, "delta": { "content": " x" }, "finish_reason": finish })
        } else {
            json!({ "index": 0, "text": " x", "finish_reason": finish })
        };
        let text = chunk(&json!({ "choices": [choice], "usage": null }));
        if stream.write_all(text.as_bytes()).await.is_err() {
            return false;
        }
    }
    true
}

/// Tokens that the template adds before a chat message.
pub(crate) const TEMPLATE_TOKENS: usize = 17;

/// Returns token counts, with the hits of an infinite cache of 16-token blocks that computes the
/// last token.
fn usage(state: &State, body: &Value, completion: usize) -> Value {
    let ids: Vec<u64> = match &body["prompt"] {
        Value::Array(ids) => ids.iter().map(|id| id.as_u64().unwrap()).collect(),
        Value::String(text) => text.split_whitespace().map(|w| w.len() as u64).collect(),
        _ => {
            let words = body["messages"][0]["content"].as_str().unwrap_or_default();
            let words = words.split_whitespace().map(|w| w.len() as u64);
            std::iter::repeat_n(0, TEMPLATE_TOKENS).chain(words).collect()
        }
    };
    let mut stored = state.stored.lock().unwrap();
    let blocks = (1..=ids.len() / 16).map(|n| ids[..n * 16].to_vec());
    let hit = blocks.clone().take_while(|b| b.len() < ids.len() && stored.contains(b)).count();
    stored.extend(blocks);
    json!({
        "prompt_tokens": ids.len(),
        "completion_tokens": completion,
        "total_tokens": ids.len() + completion,
        "prompt_tokens_details": { "cached_tokens": hit * 16 },
    })
}

fn chunk(value: &Value) -> String {
    event(&value.to_string())
}

/// Formats one event in an HTTP chunk of its own.
fn event(data: &str) -> String {
    let text = format!("data: {data}\n\n");
    format!("{:x}\r\n{text}\r\n", text.len())
}
