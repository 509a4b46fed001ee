//! A server that speaks the OpenAI API and costs next to nothing: it makes no tokens, it only sends
//! them at the times it is told. What a load generator measures against it is known beforehand.

mod answer;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use answer::{Ask, Chunks};
use wire::Incoming;

/// What the server pretends.
#[derive(Clone, Debug)]
pub struct NullOptions {
    /// From a request's turn to its first token.
    pub ttft: Duration,
    /// Further time to the first token for each token of the prompt.
    pub ttft_per_token: Duration,
    /// From one token to the next.
    pub itl: Duration,
    /// Tokens answered to a request that names no limit.
    pub tokens: u32,
    /// Requests served at once, the others wait in order; no limit unless given.
    pub slots: Option<usize>,
    /// Prompt and output tokens a request may have together.
    pub context: u32,
    /// The model it says it serves.
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
    slots: Option<Semaphore>,
}

/// A server that listens; it ends when dropped.
#[derive(Debug)]
pub struct NullServer {
    address: SocketAddr,
    tasks: JoinSet<io::Error>,
}

impl NullServer {
    /// Listens at `address`, where port 0 is any that is free.
    pub async fn start(address: &str, options: NullOptions) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let chunks = [false, true].map(|chat| Chunks::new(&options.model, chat));
        let slots = options.slots.map(Semaphore::new);
        let shared = Arc::new(Shared { options, chunks, slots });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, shared));
        Ok(Self { address, tasks })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Serves until it can no longer accept connections, and says why.
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
            // A client that goes away, however it does, ends only its own connection.
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(mut stream: TcpStream, shared: Arc<Shared>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut incoming = Incoming::default();
    while let Some(request) = incoming.next(&mut stream).await? {
        let arrived = Instant::now();
        let chat = match (request.method.as_str(), request.path.as_str()) {
            ("POST", "/v1/completions") => false,
            ("POST", "/v1/chat/completions") => true,
            ("GET", "/v1/models") => {
                let options = &shared.options;
                let model = json!({ "id": options.model, "object": "model", "created": 0,
                    "owned_by": "loadgen", "max_model_len": options.context });
                wire::plain(&mut stream, 200, &json!({ "object": "list", "data": [model] }))
                    .await?;
                continue;
            }
            ("GET", "/health" | "/ready") => {
                wire::plain(&mut stream, 200, &json!({ "status": "ok" })).await?;
                continue;
            }
            (method, path) => {
                let message = format!("there is no {method} {path} here");
                wire::refuse(&mut stream, 404, &message).await?;
                continue;
            }
        };
        match Ask::read(&request.body, &shared.options) {
            Ok(ask) => {
                let answer = Answer { shared: &shared, ask, chat, stages: request.wants_stages };
                answer.send(&mut stream, arrived).await?;
            }
            Err(message) => wire::refuse(&mut stream, 400, &message).await?,
        }
    }
    Ok(())
}

/// One answer in the making.
struct Answer<'a> {
    shared: &'a Shared,
    ask: Ask,
    chat: bool,
    stages: bool,
}

impl Answer<'_> {
    async fn send(&self, stream: &mut TcpStream, arrived: Instant) -> io::Result<()> {
        let options = &self.shared.options;
        let _slot = match &self.shared.slots {
            Some(slots) => Some(slots.acquire().await.map_err(io::Error::other)?),
            None => None,
        };
        let begun = Instant::now();
        let first = begun + options.ttft + options.ttft_per_token * self.ask.prompt_tokens;
        let chunks = &self.shared.chunks[usize::from(self.chat)];
        let timer = tokio::time::sleep_until(first);
        tokio::pin!(timer);
        let mut first_sent = begun;
        for at in 0..self.ask.output_tokens {
            let due = first + options.itl * at;
            // Every token has its own time, so that one that was late makes no other late.
            if due > Instant::now() {
                timer.as_mut().reset(due);
                timer.as_mut().await;
            }
            if at == 0 {
                first_sent = Instant::now();
            }
            match (self.ask.stream, at) {
                (true, 0) => stream.write_all(&chunks.opening).await?,
                (true, _) => stream.write_all(&chunks.token).await?,
                (false, _) => {}
            }
        }
        let times = [arrived, begun, first_sent, Instant::now()];
        let timings = self.stages.then(|| answer::timings(times));
        if self.ask.stream {
            let end = chunks.ending(&self.ask, timings);
            return stream.write_all(end.as_bytes()).await;
        }
        wire::plain(stream, 200, &answer::whole(&self.ask, &options.model, self.chat, timings))
            .await
    }
}
