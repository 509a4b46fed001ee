//! The kvstore from a worker's side, against a real nats-server.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use bus::{Blocks, Bus, BusOptions, Context, NewBlock, PullError, PutOutcome};
use chassis::{Settings, StopToken};
use protocol::frame::FRAME_HEADER;
use protocol::{
    Attempt, BlockFrame, BlockHash, Ensure, FileDigest, Lookup, ModelFingerprint, Release,
    RequestId, RequestKey, Scope, StoreStatus, StoreStatusReply,
};
use testbed::{NatsServer, OtlpReceiver, PATIENCE, SpanKind, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

testbed::suite!();

const BLOCK_BYTES: usize = 100_000;

fn fingerprint() -> ModelFingerprint {
    ModelFingerprint::new(FileDigest([2; 32]), "test")
}

fn hash(n: u8) -> BlockHash {
    BlockHash([n; 16])
}

fn hashes(numbers: std::ops::Range<u8>) -> Vec<BlockHash> {
    numbers.map(hash).collect()
}

fn key(n: u128) -> RequestKey {
    RequestKey { request: RequestId(n), attempt: Attempt(0) }
}

/// A running kvstore in this process.
struct Store {
    address: String,
    stop: StopToken,
    running: JoinSet<anyhow::Result<()>>,
}

impl Store {
    async fn start(mut settings: Settings, nats_url: String) -> Self {
        settings.nats.url = nats_url.into();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (stop, mut running) = (StopToken::new(), JoinSet::new());
        running.spawn(kvstore::serve(settings, listener, stop.clone().cancelled_owned()));
        Self { address, stop, running }
    }

    async fn end(mut self) {
        self.stop.cancel();
        soon(self.running.join_next()).await.unwrap().unwrap().unwrap();
    }

    async fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        soon(stream.read_to_string(&mut answer)).await.unwrap();
        answer
    }

    async fn ready(&self) -> bool {
        self.get("/ready").await.starts_with("HTTP/1.1 200")
    }
}

/// A worker's view of the store.
struct Worker {
    bus: Bus,
    blocks: Blocks,
}

impl Worker {
    async fn start(server: &NatsServer) -> Self {
        let options = BusOptions {
            url: server.url().into(),
            name: "worker".to_owned(),
            connect_timeout: Duration::from_secs(10),
        };
        let bus = Bus::connect(options).await.unwrap();
        let ensure = Ensure { fingerprint: fingerprint(), block_bytes: BLOCK_BYTES as u32 };
        eventually("the store ensures the model's stream", async || {
            bus.ask_store(&ensure, &Context::default(), PATIENCE).await.is_ok()
        })
        .await;
        let blocks = bus.blocks(&fingerprint());
        Self { bus, blocks }
    }

    async fn put(&self, n: u8) -> PutOutcome {
        let bytes = vec![n; BLOCK_BYTES].into();
        let block = NewBlock { hash: hash(n), tokens: 16, scope: Scope::shared(), bytes };
        soon(self.blocks.put(None, block)).await.unwrap()
    }

    async fn look_up(&self, blocks: Vec<BlockHash>, key: RequestKey, lease_ms: u32) -> u32 {
        let context = Context::default();
        self.look_up_in(blocks, key, lease_ms, &context).await
    }

    async fn look_up_in(
        &self,
        blocks: Vec<BlockHash>,
        key: RequestKey,
        lease_ms: u32,
        context: &Context,
    ) -> u32 {
        let lookup = Lookup { fingerprint: fingerprint(), blocks, key, lease_ms };
        self.bus.ask_store(&lookup, context, PATIENCE).await.unwrap().stored
    }

    async fn status(&self) -> StoreStatusReply {
        self.bus.ask_store(&StoreStatus {}, &Context::default(), PATIENCE).await.unwrap()
    }

    /// Waits until the index knows what was put.
    async fn indexed(&self, blocks: Vec<BlockHash>) {
        let count = blocks.len() as u32;
        eventually("the index has the blocks that were put", async || {
            self.look_up(blocks.clone(), key(0), 0).await == count
        })
        .await;
    }
}

/// Stores a body that is not the one its header speaks of, in the words of NATS's own protocol.
async fn put_damaged(server: &NatsServer, block: BlockHash) {
    let (header, _) = BlockFrame::split(16, Scope::shared(), &[7; BLOCK_BYTES]).remove(0);
    let headers = format!("NATS/1.0\r\n{FRAME_HEADER}: {header}\r\n\r\n");
    let (start, all) = (headers.len(), headers.len() + BLOCK_BYTES);
    let subject = format!("kvx._.{}.{block}.0", fingerprint().namespace());
    let mut sent = "CONNECT {\"verbose\":false,\"headers\":true}\r\n".to_owned();
    sent += &format!("HPUB {subject} {start} {all}\r\n{headers}");
    let mut sent = sent.into_bytes();
    sent.extend([8; BLOCK_BYTES]);
    sent.extend(b"\r\nPING\r\n");
    let address = server.url().trim_start_matches("nats://").to_owned();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&sent).await.unwrap();
    let (mut seen, mut part) = (String::new(), [0; 4096]);
    while !seen.contains("PONG") {
        let count = stream.read(&mut part).await.unwrap();
        assert_ne!(count, 0, "the server hung up: {seen}");
        seen += &String::from_utf8_lossy(&part[..count]);
    }
}

async fn soon<F: Future>(future: F) -> F::Output {
    testbed::soon("a message of the store", future).await
}

fn settings(max_bytes: u64) -> Settings {
    let mut settings = Settings::default();
    settings.kvstore.max_bytes = max_bytes;
    settings
}

#[testbed::test(multi_thread)]
async fn the_longest_stored_prefix_is_found() {
    let server = testbed::nats_server();
    let store = Store::start(settings(1 << 30), server.url()).await;
    let worker = Worker::start(&server).await;
    assert_eq!(worker.look_up(hashes(1..4), key(1), 0).await, 0);
    worker.put(1).await;
    worker.put(2).await;
    worker.put(4).await;
    worker.indexed(vec![hash(4)]).await;
    assert_eq!(worker.look_up(hashes(1..6), key(1), 10_000).await, 2);
    let status = worker.status().await;
    assert_eq!((status.streams, status.blocks, status.leased, status.evicted), (1, 3, 2, 0));
    assert!(3 * BLOCK_BYTES as u64 <= status.bytes);
    eventually("the store is ready", async || store.ready().await).await;

    let release = Release { fingerprint: fingerprint(), key: key(1) };
    worker.bus.ask_store(&release, &Context::default(), PATIENCE).await.unwrap();
    assert_eq!(worker.status().await.leased, 0);
    let shown = ["blocks 3\n", "leases 0\n", "evictions_total 0\n", "misses_total "];
    eventually("the metrics show the released lease", async || {
        let metrics = store.get("/metrics").await;
        shown.iter().all(|line| metrics.contains(&format!("tandem_kvstore_{line}")))
    })
    .await;
    let metrics = store.get("/metrics").await;
    assert!(metrics.ends_with("# EOF\n"));
    store.end().await;
}

#[testbed::test(multi_thread)]
async fn eviction_keeps_below_the_limit_and_spares_the_leased() {
    let server = testbed::nats_server();
    let max_bytes = 2_000_000;
    let store = Store::start(settings(max_bytes), server.url()).await;
    let worker = Worker::start(&server).await;
    for n in 0..4 {
        worker.put(n).await;
    }
    worker.indexed(hashes(0..4)).await;
    assert_eq!(worker.look_up(hashes(0..4), key(1), 60_000).await, 4);
    for n in 4..60 {
        worker.put(n).await;
        worker.indexed(vec![hash(n)]).await;
        // The stream is a few blocks large: an evicted block must be gone before the next put.
        eventually("the stream has the frames that the index has", async || {
            worker.blocks.state().await.unwrap().frames == worker.status().await.blocks
        })
        .await;
    }
    // The oldest blocks are leased: had the stream dropped by age, they would be gone.
    assert_eq!(worker.look_up(hashes(0..4), key(2), 0).await, 4);
    let mut pull = worker.blocks.pull(hashes(0..4)).await.unwrap();
    for _ in 0..4 {
        soon(pull.next()).await.unwrap().unwrap();
    }
    assert_eq!(worker.look_up(vec![hash(4)], key(3), 0).await, 0);
    let status = worker.status().await;
    assert!(status.bytes <= max_bytes, "{status:?}");
    assert_eq!(status.evicted + status.blocks, 60);
    // An evicted block is deleted, so that it can be stored again.
    assert_eq!(worker.put(4).await, PutOutcome::Stored);
    store.end().await;
}

#[testbed::test(multi_thread)]
async fn a_restart_rebuilds_the_index() {
    let server = testbed::nats_server();
    let first = Store::start(settings(1 << 30), server.url()).await;
    let worker = Worker::start(&server).await;
    for n in 0..20 {
        worker.put(n).await;
    }
    worker.indexed(hashes(0..20)).await;
    first.end().await;
    worker.put(20).await;
    let second = Store::start(settings(1 << 30), server.url()).await;
    eventually("the second store is ready", async || second.ready().await).await;
    // The second store has no other source for the model than its stream.
    assert_eq!(worker.look_up(hashes(0..22), key(1), 0).await, 21);
    assert!(worker.status().await.caught_up);
    second.end().await;
}

#[testbed::test(multi_thread)]
async fn a_block_that_a_reader_finds_damaged_can_be_stored_again() {
    let server = testbed::nats_server();
    let store = Store::start(settings(1 << 30), server.url()).await;
    let worker = Worker::start(&server).await;
    soon(put_damaged(&server, hash(1))).await;
    worker.indexed(hashes(1..2)).await;
    let mut pull = worker.blocks.pull(hashes(1..2)).await.unwrap();
    let error = soon(pull.next()).await.unwrap().unwrap_err();
    assert!(matches!(error, PullError::Damaged { .. }), "{error}");
    eventually("the damaged block is discarded", async || {
        worker.look_up(hashes(1..2), key(1), 0).await == 0
    })
    .await;
    eventually("the block can be stored again", async || worker.put(1).await == PutOutcome::Stored)
        .await;
    worker.indexed(hashes(1..2)).await;
    store.end().await;
}

#[testbed::test(multi_thread)]
async fn a_lookup_is_a_span_under_its_caller() {
    let server = testbed::nats_server();
    let receiver = OtlpReceiver::start().await;
    let mut settings = settings(1 << 30);
    settings.telemetry.otlp_endpoint = Some(receiver.url());
    let store = Store::start(settings, server.url()).await;
    let worker = Worker::start(&server).await;
    let (trace, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let context = Context::new(format!("00-{trace}-{parent}-01"));
    worker.look_up_in(hashes(0..3), key(1), 0, &context).await;
    store.end().await;
    let spans = receiver.wait_for(PATIENCE, |spans| !spans.is_empty()).await.unwrap();
    assert_eq!(spans.len(), 1);
    let span = &spans[0];
    assert_eq!((span.trace_id.as_str(), span.name.as_str()), (trace, "kvstore lookup"));
    assert_eq!(span.parent_span_id.as_deref(), Some(parent));
    assert_eq!(span.kind, SpanKind::Server);
}

#[testbed::test(multi_thread)]
async fn without_nats_it_is_alive_and_not_ready_and_says_why() {
    let mut server = testbed::nats_server();
    server.stop().unwrap();
    let store = Store::start(settings(1 << 30), server.url()).await;
    let alive = store.get("/health").await;
    assert!(alive.starts_with("HTTP/1.1 200"), "{alive}");
    let answer = store.get("/ready").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("nats"), "{answer}");
    server.restart().unwrap();
    eventually("the store is ready", async || store.ready().await).await;
    server.stop().unwrap();
    eventually("the store is not ready", async || !store.ready().await).await;
    store.end().await;
}
