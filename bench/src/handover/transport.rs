//! One prompt's blocks from one worker to another: through the stream as they are stored, out of
//! the stream later, and over a plain TCP connection.

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
/// All of it.
pub(super) const BYTES: usize = BLOCKS * BLOCK_BYTES;
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const ROUND_LIMIT: Duration = Duration::from_secs(60);
/// Old rounds leave by themselves.
const STORE: StreamLimits = StreamLimits { bytes_max: 1 << 30, age_max: Duration::from_secs(600) };

/// One way, measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Transport {
    /// Which.
    pub(super) way: &'static str,
    /// The median of all rounds.
    pub(super) ms: f64,
    /// The median of each round's ratio to raw TCP.
    pub(super) ratio: f64,
}

struct Site {
    from: Blocks,
    to: Blocks,
    worker: WorkerId,
    tap: bus::Tap,
    body: Bytes,
    // After its clients.
    _nats: NatsServer,
}

const WAYS: [&str; 4] =
    ["raw TCP", "hand-over, pulled", "hand-over, listened to", "reuse, fetched"];

/// Every way once in every round.
pub(super) async fn measure(rounds: u32) -> anyhow::Result<Vec<Transport>> {
    let site = Site::start().await?;
    let mut ms: [Vec<f64>; WAYS.len()] = Default::default();
    // The first round warms up: buffers, files, connections.
    for round in 0..=rounds {
        console::note(&format!("hand-over, round {round} of {rounds}"));
        let (pulled, heard) = (names(2 * round), names(2 * round + 1));
        let taken = tokio::time::timeout(ROUND_LIMIT, async {
            anyhow::Ok([
                raw_tcp(&site.body).await?,
                site.pull(&pulled).await?,
                site.listen(&heard).await?,
                site.fetch(&pulled).await?,
            ])
        });
        let taken = taken.await.context("a round took too long")??;
        if 0 < round {
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

fn names(round: u32) -> Vec<BlockHash> {
    let name = |block: usize| {
        let mut hash = [0; 16];
        hash[..4].copy_from_slice(&round.to_le_bytes());
        hash[4..12].copy_from_slice(&(block as u64).to_le_bytes());
        BlockHash(hash)
    };
    (0..BLOCKS).map(name).collect()
}

impl Site {
    async fn start() -> anyhow::Result<Self> {
        let nats = tokio::task::spawn_blocking(|| {
            let program = provision::nats_server(&console::note).context("get nats-server")?;
            NatsServer::start(NatsOptions::new(program)).context("start a private nats-server")
        });
        let nats = nats.await.context("start a private nats-server")??;
        let connect = async |name: &str| {
            let url = nats.url();
            let name = name.to_owned();
            Bus::connect(BusOptions { url, name, connect_timeout: CONNECT_LIMIT }).await
        };
        let fingerprint = ModelFingerprint::new(FileDigest([7; 32]), "bench");
        let from = connect("prefill").await?.blocks(&fingerprint);
        let to = connect("decode").await?.blocks(&fingerprint);
        from.ensure_stream(STORE).await?;
        let worker: WorkerId = "decode-1".parse().context("name a worker")?;
        let tap = to.tap(&worker).await?;
        let mut body = vec![0; BYTES];
        rand::fill(&mut body[..]);
        Ok(Self { from, to, worker, tap, body: body.into(), _nats: nats })
    }

    /// The blocks are pulled as they are stored.
    async fn pull(&self, names: &[BlockHash]) -> anyhow::Result<Duration> {
        let started = Instant::now();
        let mut pull = self.to.pull(names.to_vec()).await?;
        let mut puts = self.put(names, None);
        let mut came = Vec::with_capacity(BLOCKS);
        while let Some(block) = pull.next().await {
            came.push(block?.bytes);
        }
        let took = started.elapsed();
        self.check(&came)?;
        finish(&mut puts).await?;
        Ok(took)
    }

    /// The blocks are heard as they are put.
    async fn listen(&self, names: &[BlockHash]) -> anyhow::Result<Duration> {
        let started = Instant::now();
        let mut expected = self.tap.expect(names.to_vec());
        let mut puts = self.put(names, Some(&self.worker));
        let mut came = Vec::with_capacity(BLOCKS);
        while let Some(block) = expected.next().await {
            came.push(block.bytes);
        }
        let took = started.elapsed();
        self.check(&came)?;
        finish(&mut puts).await?;
        Ok(took)
    }

    /// The blocks were stored before.
    async fn fetch(&self, names: &[BlockHash]) -> anyhow::Result<Duration> {
        let started = Instant::now();
        let mut fetch = self.to.fetch(names.to_vec()).await?;
        let mut came = Vec::with_capacity(BLOCKS);
        while let Some(block) = fetch.next().await {
            came.push(block?.bytes);
        }
        let took = started.elapsed();
        self.check(&came)?;
        Ok(took)
    }

    /// Every block came, and none is another one's.
    fn check(&self, came: &[Vec<u8>]) -> anyhow::Result<()> {
        ensure!(came.len() == BLOCKS, "{} blocks came, expected {BLOCKS}", came.len());
        let mut sent: Vec<&[u8]> = self.body.chunks(BLOCK_BYTES).collect();
        let mut got: Vec<&[u8]> = came.iter().map(Vec::as_slice).collect();
        sent.sort_unstable();
        got.sort_unstable();
        ensure!(sent == got, "blocks came with other contents");
        Ok(())
    }

    fn put(&self, names: &[BlockHash], to: Option<&WorkerId>) -> JoinSet<anyhow::Result<()>> {
        let mut puts = JoinSet::new();
        for (index, &hash) in names.iter().enumerate() {
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
        put.context("a put failed")??;
    }
    Ok(())
}

/// The same bytes over loopback, every block into memory of its own, and kept.
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
    let came =
        tasks.join_next().await.context("receive")?.context("receive")?.context("receive")?;
    let took = started.elapsed();
    ensure!(came.concat() == *body, "other bytes came");
    Ok(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_is_used_twice() {
        let mut all: Vec<_> = (0..9).flat_map(names).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 9 * BLOCKS);
    }
}
