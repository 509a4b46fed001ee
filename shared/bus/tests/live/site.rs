//! A private server for one test, and its clients.

use std::time::Duration;

use bus::{Blocks, Bus, BusOptions, NewBlock, StreamLimits};
use bytes::Bytes;
use protocol::{BlockHash, FileDigest, ModelFingerprint, Role, Scope, WorkerId, WorkerState};
use testbed::NatsServer;

pub(crate) struct Site {
    pub(crate) server: NatsServer,
}

impl Site {
    pub(crate) fn start() -> Self {
        Self { server: testbed::nats_server() }
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

    /// Returns the blocks of the test model, with its stream.
    pub(crate) async fn blocks(&self, bus: &Bus) -> Blocks {
        let blocks = bus.blocks(&fingerprint());
        blocks.ensure_stream(limits()).await.unwrap();
        blocks
    }
}

/// Returns the output of `future`, within the patience of a test.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    testbed::soon("a message of the bus", future).await
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
    WorkerState { fingerprint: fingerprint(), ..testbed::idle_worker(name, Role::Decode) }
}
