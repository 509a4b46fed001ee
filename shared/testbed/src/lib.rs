//! Tools that the tests of several crates share: private servers, the pinned model, a model hub, a
//! span receiver, waiting with a deadline, visible skips.

mod extent;
mod harness;
mod http;
mod hub;
mod otlp;
mod require;
mod tree;
mod wait;
mod worker;

pub use extent::Extent;
pub use harness::{Case, block_on, block_on_paused, block_on_threads, run_suite, skip};
pub use http::http;
pub use hub::{HubFault, HubServer};
pub use otlp::OtlpReceiver;
pub use provision::NatsServer;
pub use require::{available, require};
pub use testbed_macros::test;
pub use tree::{SpanEvent, SpanKind, SpanRecord, TraceTree};
pub use wait::{PATIENCE, eventually, soon, try_for, wait_for};
pub use worker::idle_worker;

#[doc(hidden)]
pub use inventory;

use std::path::{Path, PathBuf};

use provision::NatsOptions;

/// Starts a private nats-server with JetStream, which ends when dropped; without the program, ends
/// the test as ignored.
///
/// Blocks while it starts and, the first time on a machine, while the program is fetched.
///
/// # Panics
///
/// When the machine lacks the program, to end the test.
pub fn nats_server() -> NatsServer {
    let program = provision::nats_server(&|line| eprintln!("{line}"));
    let program = require("nats-server", program);
    require("a private nats-server", NatsServer::start(NatsOptions::new(program)))
}

/// Returns the path of the pinned SmolLM2-135M-Instruct GGUF; without the file, ends the test as
/// ignored.
///
/// # Panics
///
/// When the machine lacks the file, to end the test.
pub fn smollm2() -> PathBuf {
    require("SmolLM2-135M", provision::smollm2(&|line| eprintln!("{line}")))
}

/// A certificate for `localhost` (`server.pem`), its key (`server.key`), or the private authority
/// that signed it (`authority.pem`).
pub fn tls_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/tls").join(name)
}
