//! Sending of every request of a plan at its time, and the records of the responses.

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

/// Treatment of a request that is due while the limit of requests in flight is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OnFull {
    /// The request waits, and the wait counts as response time.
    Queue,
    /// The request is not sent and counts as failed.
    Drop,
    /// The run ends.
    Abort,
}

/// Options for sending requests.
#[derive(Clone, Copy, Debug)]
pub struct SendOptions {
    /// Endpoint of the requests.
    pub endpoint: Endpoint,
    /// Limit from the intended time of a request to its end.
    pub timeout: Duration,
    /// Limit of requests in flight, if there is one.
    pub max_inflight: Option<usize>,
    /// Treatment of a request that is due at the limit.
    pub on_full: OnFull,
    /// Time that requests in flight have left once the run is stopped.
    pub grace: Duration,
    /// Number of threads that send and receive.
    pub threads: usize,
}

/// Result of a run.
#[derive(Debug, Default)]
pub struct RunOutcome {
    /// Requests that were sent and are over, in order of the plan, of every phase.
    pub records: Vec<RequestRecord>,
    /// Requests that the operator cancelled in flight, in order of the plan.
    pub cancelled: Vec<RequestRecord>,
    /// Number of requests that were not sent because the operator stopped the run.
    pub unsent: usize,
    /// Number of turns that were not due before the end of the plan.
    pub beyond_end: usize,
    /// Number of cool-down requests that were not needed: not sent, or cancelled after the end of
    /// the last measured request.
    pub unneeded: usize,
    /// True if the cool-down ended before the last measured request.
    pub cooldown_hit: bool,
    /// Reason for cutting the run short, if it was.
    pub cut_short: Option<String>,
    /// Resources of the generator itself.
    pub client: ClientUse,
    /// CPU seconds of this process, where `/proc` has them.
    pub cpu_s: Option<f64>,
    /// Time from the start of the schedule to the end of the last request.
    pub wall_ns: i64,
}

/// Resources that the generator used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ClientUse {
    /// Number of threads that send and receive.
    pub threads: usize,
    /// Share of the time that the busiest thread was on a CPU, where `/proc` has it.
    pub busiest: Option<f64>,
    /// Largest share of the time that a thread was runnable without a CPU, where `/proc` has it.
    pub starved: Option<f64>,
    /// Number of connections opened.
    pub connections: u64,
}

/// A failure of the generator that ends a run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A pacing thread could not be started.
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
