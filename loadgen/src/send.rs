//! Sends every request of a plan at its time and keeps what became of it.

pub mod client;
pub mod clock;
mod connection;
mod due;
mod flight;
pub mod identity;
pub mod live;
pub mod overhead;
pub mod pacer;
pub mod record;
pub mod reply;
mod runner;
mod sending;
pub mod slo;
pub mod sse;
pub mod stages;
pub mod stamps;
pub mod tls;
pub mod turns;

use std::time::Duration;

use crate::plan::body::Endpoint;
use live::Snapshot;
use record::RequestRecord;
pub use runner::Runner;

/// What happens to a request that is due while the limit of requests in flight is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OnFull {
    /// It waits, and its waiting counts as response time.
    Queue,
    /// It is not sent and counts as failed.
    Drop,
    /// The run ends.
    Abort,
}

/// How requests are sent.
#[derive(Clone, Copy, Debug)]
pub struct SendOptions {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// From when a request is due to when it must be over.
    pub timeout: Duration,
    /// Limit of requests in flight.
    pub max_inflight: Option<usize>,
    /// What happens at the limit.
    pub on_full: OnFull,
    /// How long requests in flight may go on once the run is stopped.
    pub grace: Duration,
    /// How many threads send and receive.
    pub threads: usize,
}

/// What a run left behind.
#[derive(Debug, Default)]
pub struct RunOutcome {
    /// Requests that were offered and are over, in order of the plan, of every phase.
    pub records: Vec<RequestRecord>,
    /// Requests in flight that the operator cut off, in order of the plan.
    pub cancelled: Vec<RequestRecord>,
    /// Requests that the operator kept from being offered.
    pub unsent: usize,
    /// Turns of sessions that were not due before the end of the plan.
    pub beyond_end: usize,
    /// Requests of the cool-down that were not needed: not sent, or cut off once the last measured
    /// request was over.
    pub unneeded: usize,
    /// Whether the load of the cool-down ran out before the last measured request was over.
    pub cooldown_hit: bool,
    /// Why the run was cut short.
    pub cut_short: Option<String>,
    /// What the generator itself used.
    pub client: ClientUse,
    /// CPU seconds of this process.
    pub cpu_s: Option<f64>,
    /// From the start of the schedule to the end of the last request.
    pub wall_ns: i64,
}

/// What the generator used, and where it was held up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ClientUse {
    /// How many threads sent and received.
    pub threads: usize,
    /// Part of the time in which the busiest of them was on a CPU, if the system tells.
    pub busiest: Option<f64>,
    /// Part of the time in which one of them could have run and was given no CPU: the longest.
    pub starved: Option<f64>,
    /// Connections opened.
    pub connections: u64,
}

/// Why a run could not go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The pacing threads could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
    /// A pacing thread panicked.
    #[error("a pacing thread panicked")]
    PacerPanicked,
    /// A request task panicked.
    #[error("a request task panicked: {0}")]
    TaskPanicked(String),
}

/// A display of a run's progress. `()` shows nothing.
pub trait Display: Send {
    /// Waits until the display is due.
    fn tick(&mut self) -> impl Future<Output = ()> + Send;

    /// Shows the counters of one moment.
    fn show(&mut self, snapshot: &Snapshot);
}

impl Display for () {
    async fn tick(&mut self) {
        std::future::pending().await
    }

    fn show(&mut self, _snapshot: &Snapshot) {}
}
