//! The lower bound of the machine: the same streams, read by a loop that ignores the bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::child::Server;
use super::load::Cpu;
use super::{RawStep, Shape};

/// Last bytes of the response of a stream.
const END: &[u8] = b"\r\n0\r\n\r\n";

/// Reads as many streams as a step, for the same time.
pub(super) async fn drive(server: &Server, shape: &Shape) -> Result<RawStep> {
    let address = server.url.trim_start_matches("http://").to_owned();
    let request: Arc<[u8]> = request(shape.tokens).into();
    let messages = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let begin = start + shape.stream();
    let mut tasks = JoinSet::new();
    for stream in 0..shape.streams {
        // The streams start one after the other, as those of a step do.
        let first = start + shape.stream() * stream / shape.streams;
        let (address, request, messages) = (address.clone(), request.clone(), messages.clone());
        tasks.spawn(async move {
            tokio::time::sleep_until(first).await;
            read_on(&address, &request, &messages).await
        });
    }
    let broken = async {
        match tasks.join_next().await {
            Some(Ok(Err(error))) => error,
            other => anyhow::anyhow!("a loop that never ends ended: {other:?}"),
        }
    };
    let watch = async {
        tokio::time::sleep_until(begin).await;
        let (before, count) = (Cpu::now(server), messages.load(Relaxed));
        tokio::time::sleep_until(begin + shape.hold).await;
        (before.until(&Cpu::now(server)), messages.load(Relaxed) - count)
    };
    let (cpu, count) = tokio::select! {
        watched = watch => watched,
        error = broken => return Err(error),
    };
    let messages_per_s = count as f64 / shape.hold.as_secs_f64();
    Ok(RawStep {
        streams: shape.streams,
        messages_per_s,
        busy: cpu.busy,
        cpu_us_per_message: cpu.busy.map(|busy| busy * 1e6 / messages_per_s.max(1e-9)),
    })
}

/// Returns the request of a step, in bytes.
fn request(tokens: u32) -> Vec<u8> {
    let body = format!(
        "{{\"model\":\"null\",\"prompt\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16],\
         \"max_tokens\":{tokens},\"stream\":true,\"stream_options\":{{\"include_usage\":true}}}}"
    );
    let head = "POST /v1/completions HTTP/1.1\r\nhost: null\r\nx-tandem-timings: stages\r\n";
    format!("{head}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// Sends the request and reads the response in a loop, and counts the messages.
async fn read_on(address: &str, request: &[u8], messages: &AtomicU64) -> Result<()> {
    let connected = tokio::time::timeout(Duration::from_secs(10), TcpStream::connect(address));
    let mut stream = connected.await.context("not connected after 10 s")??;
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 8192];
    loop {
        stream.write_all(request).await?;
        loop {
            let n = stream.read(&mut buffer).await?;
            anyhow::ensure!(n > 0, "the server closed a connection");
            messages.fetch_add(1, Relaxed);
            if buffer[..n].ends_with(END) {
                break;
            }
        }
    }
}
