//! The blocks of one prompt from one worker to another: through the stream as they are put, from the
//! stream later, and over a plain TCP connection.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bus::{Blocks, Bus, BusOptions, NewBlock, StreamLimits};
use bytes::Bytes;
use protocol::{BlockHash, FileDigest, ModelFingerprint, Scope, WorkerId};
use provision::{NatsOptions, NatsServer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::console;
use crate::figures::median;

/// A prompt of two thousand tokens on a model of 135 million parameters.
pub(super) const BLOCKS: usize = 128;
const BLOCK_BYTES: usize = 360 << 10;
/// Bytes of all blocks.
pub(super) const BYTES: usize = BLOCKS * BLOCK_BYTES;
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const ROUND_LIMIT: Duration = Duration::from_secs(60);
/// Limits that remove the blocks of old rounds.
const STORE: StreamLimits = StreamLimits { bytes_max: 1 << 30, age_max: Duration::from_secs(600) };

/// The figures of one way to move the blocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Transport {
    pub(super) way: &'static str,
    /// The median of all rounds.
    pub(super) ms: f64,
    /// The median of each round's ratio to raw TCP.
    pub(super) ratio: f64,
}

/// Two workers' connections to the same stream.
struct Link {
    from: Blocks,
    to: Blocks,
    worker: WorkerId,
    tap: bus::BlockSubscription,
    body: Bytes,
    // Dropped after its clients.
    _nats: NatsServer,
}

const WAYS: [&str; 4] =
    ["raw TCP", "hand-over, pulled", "hand-over, listened to", "reuse, fetched"];

/// Measures every way once in each round.
pub(super) async fn measure(rounds: u32) -> anyhow::Result<Vec<Transport>> {
    let link = Link::start().await?;
    let mut ms: [Vec<f64>; WAYS.len()] = Default::default();
    // The first round warms up buffers, files and connections.
    for round in 0..=rounds {
        console::note(&format!("hand-over, round {round} of {rounds}"));
        let (pulled, listened) = (hashes(2 * round), hashes(2 * round + 1));
        let taken = tokio::time::timeout(ROUND_LIMIT, async {
            anyhow::Ok([
                raw_tcp(&link.body).await?,
                link.pull(&pulled).await?,
                link.listen(&listened).await?,
                link.fetch(&pulled).await?,
            ])
        });
        let taken = taken
            .await
            .with_context(|| format!("a round took over {} s", ROUND_LIMIT.as_secs()))??;
        if round > 0 {
            ms.iter_mut().zip(taken).for_each(|(all, it)| all.push(it.as_secs_f64() * 1e3));
        }
    }
    let tcp = ms[0].clone();
    let ratio = |all: &[f64]| median(all.iter().zip(&tcp).map(|(it, tcp)| it / tcp).collect());
    let ways = WAYS.into_iter().zip(&ms);
    Ok(ways
        .map(|(way, all)| Transport { way, ms: median(all.clone()), ratio: ratio(all) })
        .collect())
}

fn hashes(round: u32) -> Vec<BlockHash> {
    (0..BLOCKS as u64)
        .map(|block| {
            let mut hash = [0; 16];
            hash[..4].copy_from_slice(&round.to_le_bytes());
            hash[4..12].copy_from_slice(&block.to_le_bytes());
            BlockHash(hash)
        })
        .collect()
}

impl Link {
    async fn start() -> anyhow::Result<Self> {
        let nats = tokio::task::spawn_blocking(|| {
            let program = provision::nats_server(&console::note).context("get nats-server")?;
            NatsServer::start(NatsOptions::new(program)).context("start a private nats-server")
        });
        let nats = nats.await.context("start a private nats-server")??;
        let connect = async |name: &str| {
            let url = nats.url().into();
            let name = name.to_owned();
            Bus::connect(BusOptions { url, name, connect_timeout: CONNECT_LIMIT }).await
        };
        let fingerprint = ModelFingerprint::new(FileDigest([7; 32]), "bench");
        let from = connect("prefill").await?.blocks(&fingerprint);
        let to = connect("decode").await?.blocks(&fingerprint);
        from.ensure_stream(STORE).await?;
        let worker: WorkerId = "decode-1".parse().context("name a worker")?;
        let tap = to.subscribe(&worker).await?;
        let mut body = vec![0; BYTES];
        rand::fill(&mut body[..]);
        Ok(Self { from, to, worker, tap, body: body.into(), _nats: nats })
    }

    /// Pulls the blocks while they are put.
    async fn pull(&self, hashes: &[BlockHash]) -> anyhow::Result<Duration> {
        let started = Instant::now();
        let mut pull = self.to.pull(hashes.to_vec()).await?;
        let mut puts = self.put(hashes, None);
        let mut blocks = Vec::with_capacity(BLOCKS);
        while let Some(block) = pull.next().await {
            blocks.push(block?.bytes);
        }
        let took = started.elapsed();
        self.check(&blocks)?;
        finish(&mut puts).await?;
        Ok(took)
    }

    /// Listens to the blocks while they are put.
    async fn listen(&self, hashes: &[BlockHash]) -> anyhow::Result<Duration> {
        let started = Instant::now();
        let mut expected = self.tap.expect(hashes.to_vec());
        let mut puts = self.put(hashes, Some(&self.worker));
        let mut blocks = Vec::with_capacity(BLOCKS);
        while let Some(block) = expected.next().await {
            blocks.push(block.bytes);
        }
        let took = started.elapsed();
        self.check(&blocks)?;
        finish(&mut puts).await?;
        Ok(took)
    }

    /// Fetches blocks that were stored before.
    async fn fetch(&self, hashes: &[BlockHash]) -> anyhow::Result<Duration> {
        let started = Instant::now();
        let mut fetch = self.to.fetch(hashes.to_vec()).await?;
        let mut blocks = Vec::with_capacity(BLOCKS);
        while let Some(block) = fetch.next().await {
            blocks.push(block?.bytes);
        }
        let took = started.elapsed();
        self.check(&blocks)?;
        Ok(took)
    }

    /// Checks that exactly the blocks that were put arrived.
    fn check(&self, blocks: &[Vec<u8>]) -> anyhow::Result<()> {
        ensure!(blocks.len() == BLOCKS, "{} blocks arrived, expected {BLOCKS}", blocks.len());
        let mut sent: Vec<&[u8]> = self.body.chunks(BLOCK_BYTES).collect();
        let mut got: Vec<&[u8]> = blocks.iter().map(Vec::as_slice).collect();
        sent.sort_unstable();
        got.sort_unstable();
        ensure!(sent == got, "the blocks arrived with other contents");
        Ok(())
    }

    fn put(&self, hashes: &[BlockHash], to: Option<&WorkerId>) -> JoinSet<anyhow::Result<()>> {
        let mut puts = JoinSet::new();
        for (index, &hash) in hashes.iter().enumerate() {
            let bytes = self.body.slice(index * BLOCK_BYTES..(index + 1) * BLOCK_BYTES);
            let (blocks, to) = (self.from.clone(), to.cloned());
            puts.spawn(async move {
                let block = NewBlock { hash, tokens: 16, scope: Scope::shared(), bytes };
                blocks.put(to.as_ref(), block).await?;
                Ok(())
            });
        }
        puts
    }
}

async fn finish(puts: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    while let Some(put) = puts.join_next().await {
        put.context("put a block")??;
    }
    Ok(())
}

/// Sends the same bytes over loopback and keeps every block in memory of its own.
async fn raw_tcp(body: &Bytes) -> anyhow::Result<Duration> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("listen")?;
    let address = listener.local_addr().context("listen")?;
    let mut sender = TcpStream::connect(address).await.context("connect")?;
    let (mut receiver, _) = listener.accept().await.context("accept")?;
    let started = Instant::now();
    let send = async {
        for block in body.chunks(BLOCK_BYTES) {
            sender.write_all(block).await?;
        }
        std::io::Result::Ok(())
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut blocks = Vec::with_capacity(BLOCKS);
        for _ in 0..BLOCKS {
            let mut block = vec![0; BLOCK_BYTES];
            receiver.read_exact(&mut block).await?;
            blocks.push(block);
        }
        std::io::Result::Ok(blocks)
    });
    send.await.context("send")?;
    let blocks =
        tasks.join_next().await.context("receive")?.context("receive")?.context("receive")?;
    let took = started.elapsed();
    ensure!(blocks.concat() == *body, "other bytes arrived");
    Ok(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_hash_is_used_twice() {
        let mut all: Vec<_> = (0..9).flat_map(hashes).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 9 * BLOCKS);
    }
}
