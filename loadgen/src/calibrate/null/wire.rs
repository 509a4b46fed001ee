//! As much of HTTP/1.1 as the null server needs, read without allocating more than the body.

use std::io;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const MAX_HEAD_BYTES: usize = 64 << 10;
const MAX_BODY_BYTES: usize = 64 << 20;

/// One request.
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) wants_stages: bool,
    pub(super) body: Vec<u8>,
}

/// The requests of one connection.
#[derive(Default)]
pub(super) struct Incoming {
    buffer: Vec<u8>,
}

/// What a head says.
struct Head {
    method: String,
    path: String,
    wants_stages: bool,
    body_bytes: usize,
    expects_continue: bool,
}

impl Incoming {
    /// The next request; none once the client has closed.
    pub(super) async fn next(&mut self, stream: &mut TcpStream) -> io::Result<Option<Request>> {
        let end = loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if self.buffer.len() > MAX_HEAD_BYTES {
                return Err(io::Error::other("the head of a request is too long"));
            }
            if stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        };
        let head = head(&self.buffer[..end])?;
        if head.expects_continue {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        while self.buffer.len() < end + head.body_bytes {
            if stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
        let body = self.buffer[end..end + head.body_bytes].to_vec();
        self.buffer.drain(..end + head.body_bytes);
        let Head { method, path, wants_stages, .. } = head;
        Ok(Some(Request { method, path, wants_stages, body }))
    }
}

fn head(bytes: &[u8]) -> io::Result<Head> {
    let wrong = |what: &str| io::Error::other(format!("not a request of HTTP/1.1: {what}"));
    let text = std::str::from_utf8(bytes).map_err(|_| wrong("the head is not UTF-8"))?;
    let mut lines = text.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(path)) = (words.next(), words.next()) else {
        return Err(wrong("no request line"));
    };
    let mut head = Head {
        method: method.to_owned(),
        path: path.split('?').next().unwrap_or_default().to_owned(),
        wants_stages: false,
        body_bytes: 0,
        expects_continue: false,
    };
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            let length = value.parse().ok().filter(|n| *n <= MAX_BODY_BYTES);
            head.body_bytes = length.ok_or_else(|| wrong("content-length"))?;
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(wrong("a body without content-length"));
        } else if name.eq_ignore_ascii_case("expect") {
            head.expects_continue = true;
        } else if name.eq_ignore_ascii_case("x-tandem-timings") {
            head.wants_stages = value == "stages";
        }
    }
    Ok(head)
}

/// Sends a JSON answer.
pub(super) async fn plain(stream: &mut TcpStream, status: u16, body: &Value) -> io::Result<()> {
    let body = body.to_string();
    let reason = match status {
        200 => "OK",
        404 => "Not Found",
        _ => "Bad Request",
    };
    let head = format!(
        "HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await
}

/// Sends an error object.
pub(super) async fn refuse(stream: &mut TcpStream, status: u16, message: &str) -> io::Result<()> {
    let error = json!({ "message": message, "type": "invalid_request_error" });
    plain(stream, status, &json!({ "error": error })).await
}
