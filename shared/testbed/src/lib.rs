//! Tools that the tests of several crates share: private servers, the pinned model, a model hub, a
//! span receiver, waiting with a deadline, visible skips.

mod extent;
mod hub;
mod otlp;
mod require;
mod tree;
mod wait;
mod worker;

pub use extent::Extent;
pub use hub::{HubFault, HubServer};
pub use otlp::OtlpReceiver;
pub use provision::NatsServer;
pub use require::require_or_skip;
pub use tree::{SpanEvent, SpanKind, SpanRecord, TraceTree};
pub use wait::{PATIENCE, eventually, soon, try_for, wait_for};
pub use worker::idle_worker;

use std::path::PathBuf;

use provision::NatsOptions;

/// A fresh private nats-server with JetStream, ended when dropped; `None` means skip this test.
///
/// Blocks while it starts (and, the first time on a machine, while the program is fetched).
pub fn nats() -> Option<NatsServer> {
    let program = provision::nats_server(&|line| eprintln!("{line}"));
    let program = require_or_skip("nats-server", program)?;
    require_or_skip("a private nats-server", NatsServer::start(NatsOptions::new(program)))
}

/// The pinned SmolLM2-135M-Instruct GGUF; `None` means skip this test.
pub fn model_path() -> Option<PathBuf> {
    require_or_skip("SmolLM2-135M", provision::smollm2(&|line| eprintln!("{line}")))
}
