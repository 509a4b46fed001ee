//! A private server for one test, and parties on it.

use std::time::Duration;

use bus::{Blocks, Bus, BusOptions, NewBlock, StreamLimits};
use bytes::Bytes;
use protocol::{
    BlockHash, FileDigest, ModelFingerprint, PoolState, Role, Scope, Speed, WorkerId, WorkerState,
};
use testbed::NatsServer;

/// Ends a wait that would otherwise hang a broken test; never decides a passing one.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Site {
    pub(crate) server: NatsServer,
}

impl Site {
    /// `None` means skip.
    pub(crate) fn start() -> Option<Self> {
        testbed::nats().map(|server| Self { server })
    }

    pub(crate) async fn bus(&self, name: &str) -> Bus {
        let options = BusOptions {
            url: self.server.url().into(),
            name: name.to_owned(),
            connect_timeout: Duration::from_secs(10),
        };
        Bus::connect(options).await.unwrap()
    }

    /// A client that is not one of ours.
    pub(crate) async fn stranger(&self) -> async_nats::Client {
        async_nats::connect(self.server.url()).await.unwrap()
    }

    /// The blocks of the test model, its stream made.
    pub(crate) async fn blocks(&self, bus: &Bus) -> Blocks {
        let blocks = bus.blocks(&fingerprint());
        blocks.ensure_stream(limits()).await.unwrap();
        blocks
    }
}

pub(crate) async fn soon<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(PATIENCE, what).await.expect("nothing happened for half a minute")
}

/// Asks again until the answer is yes.
pub(crate) async fn until<F: AsyncFnMut() -> bool>(mut holds: F) {
    soon(async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}

pub(crate) fn limits() -> StreamLimits {
    StreamLimits { bytes_max: 1 << 30, age_max: Duration::from_secs(3600) }
}

pub(crate) fn fingerprint() -> ModelFingerprint {
    ModelFingerprint::new(FileDigest([1; 32]), "test")
}

pub(crate) fn hash(n: u32) -> BlockHash {
    let mut hash = [0; 16];
    hash[..4].copy_from_slice(&n.to_le_bytes());
    BlockHash(hash)
}

/// A block whose every byte depends on its number.
pub(crate) fn block(n: u32, bytes: usize) -> NewBlock {
    let body: Bytes =
        (0..bytes).map(|index| (index as u32).wrapping_mul(31).wrapping_add(n) as u8).collect();
    NewBlock { hash: hash(n), tokens: 16, scope: Scope::shared(), bytes: body }
}

pub(crate) fn worker(name: &str) -> WorkerId {
    name.parse().unwrap()
}

pub(crate) fn state(name: &str) -> WorkerState {
    WorkerState {
        worker: worker(name),
        role: Role::Decode,
        prefill_share: 0.25,
        step_tokens: 256,
        epoch: 7,
        ready: true,
        draining: false,
        model: "test".to_owned(),
        files: FileDigest([1; 32]),
        fingerprint: fingerprint(),
        context_tokens: 2048,
        device: "cpu".to_owned(),
        queued_sequences: 0,
        queued_tokens: 0,
        queued_pairs: 0,
        running_sequences: 3,
        running_tokens: 0,
        sequences_max: 32,
        pool: PoolState { free: 10, cached: 0, leased: 6, total: 16, leaked: 0 },
        speed: Speed::default(),
        health_address: "127.0.0.1:1".to_owned(),
    }
}
