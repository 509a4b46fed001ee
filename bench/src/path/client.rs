//! The load: so many connections, each with one streaming request after the other.
//!
//! It writes and reads HTTP by hand, because whoever measures on the same cores must cost little:
//! the same request ten thousand times, of which only two moments and a count matter.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use protocol::simulated;
use rand::RngExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Words of a prompt.
pub(super) const PROMPT_WORDS: usize = 100;
/// Tokens of an answer.
pub(super) const OUTPUT_TOKENS: usize = 16;

const ANSWER_LIMIT: Duration = Duration::from_secs(30);
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// The role, every token, the end, and the word that the stream is over.
const EVENTS: usize = OUTPUT_TOKENS + 2;

/// What one request took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Until the first token was here.
    pub(super) ttft: Duration,
    /// Until the answer was complete.
    pub(super) whole: Duration,
}

/// Keeps `connections` requests in flight for `lasting`; what each of those that began in this
/// time took.
pub(crate) async fn load(
    address: &str,
    connections: usize,
    lasting: Duration,
) -> anyhow::Result<Vec<Sample>> {
    let until = Instant::now() + lasting;
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        clients.spawn(client(address.to_owned(), until));
    }
    let mut all = Vec::new();
    while let Some(samples) = clients.join_next().await {
        all.extend(samples.context("a client failed")??);
    }
    Ok(all)
}

async fn client(address: String, until: Instant) -> anyhow::Result<Vec<Sample>> {
    let mut stream = TcpStream::connect(&address).await.context("connect to the gateway")?;
    stream.set_nodelay(true).context("connect to the gateway")?;
    let mut buffer = Vec::with_capacity(16 << 10);
    let mut samples = Vec::new();
    while Instant::now() < until {
        let request = request(&address);
        let started = Instant::now();
        let asked = ask(&mut stream, request.as_bytes(), &mut buffer);
        let asked = tokio::time::timeout(ANSWER_LIMIT, asked).await.context("no answer in time")?;
        let first = asked?;
        samples.push(Sample { ttft: first - started, whole: started.elapsed() });
    }
    Ok(samples)
}

/// Another prompt every time: nothing is reused.
fn request(address: &str) -> String {
    let words = simulated::words();
    let mut random = rand::rng();
    let mut prompt = String::with_capacity(6 * PROMPT_WORDS);
    for _ in 0..PROMPT_WORDS {
        prompt.push(' ');
        prompt += words[random.random_range(0..words.len())];
    }
    let body = format!(
        r#"{{"model":"{}","messages":[{{"role":"user","content":"{}"}}],"stream":true,"max_tokens":{OUTPUT_TOKENS},"ignore_eos":true,"temperature":0}}"#,
        simulated::NAME,
        prompt.trim_start(),
    );
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\ncontent-type: \
         application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Sends a request and reads its answer to the end; when the first token was here.
async fn ask(
    stream: &mut TcpStream,
    request: &[u8],
    buffer: &mut Vec<u8>,
) -> anyhow::Result<Instant> {
    stream.write_all(request).await.context("send a request")?;
    buffer.clear();
    let mut first = None;
    loop {
        let read = stream.read_buf(buffer).await.context("read an answer")?;
        ensure!(0 < read, "the gateway closed the connection: {}", shown(buffer));
        ensure!(buffer.len() < ANSWER_BYTES_MAX, "an endless answer");
        if first.is_none() && contains(buffer, b"data: ") {
            first = Some(Instant::now());
        }
        // The last chunk of the body is empty.
        if buffer.ends_with(b"\r\n0\r\n\r\n") {
            break;
        }
        if first.is_none() && contains(buffer, b"\r\n\r\n") && !buffer.starts_with(b"HTTP/1.1 200")
        {
            bail!("refused: {}", shown(buffer));
        }
    }
    let events = buffer.windows(6).filter(|window| *window == b"data: ").count();
    ensure!(EVENTS <= events, "{events} events, expected {EVENTS} or more: {}", shown(buffer));
    ensure!(contains(buffer, b"[DONE]"), "an answer without its end: {}", shown(buffer));
    first.context("an answer without a token")
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|window| window == wanted)
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(600)]).into_owned()
}
