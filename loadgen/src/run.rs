//! The run loop: sends every request at its time, waits for the last, and never slows the schedule.

use std::sync::Arc;
use std::time::Duration;

use chassis::Tracer;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use crate::annotate::{Annotation, Planned};
use crate::body::Endpoint;
use crate::client::Client;
use crate::clock::{ThreadTimes, cpu_seconds};
use crate::flight::Flight;
use crate::identity::Identity;
use crate::live::Live;
use crate::pacer::{DUE_QUEUE, Pace, Pacer};
use crate::progress::Progress;
use crate::record::RequestRecord;
use crate::sending::Sender;
use crate::turns::Chains;

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
    /// What else happened, by intended time.
    pub annotations: Vec<Annotation>,
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

/// Sends with one client, counted in `live`.
pub struct Runner {
    /// The client.
    pub client: Client,
    /// How requests are sent.
    pub options: SendOptions,
    /// The ids they carry.
    pub identity: Identity,
    /// Counters for the progress display.
    pub live: Arc<Live>,
    /// What else shall happen in the course of the run.
    pub annotations: Vec<Planned>,
    /// Records a span for each request, if there is one.
    pub tracer: Option<Tracer>,
}

impl Runner {
    /// Runs the plan in `pace`. Each message in `stop` stops more: first the offering, with a
    /// grace for what is in flight, then everything.
    pub async fn run(
        self,
        pace: Pace,
        mut stop: mpsc::Receiver<String>,
        mut progress: Progress,
    ) -> Result<RunOutcome, RunError> {
        let (plan, clock) = (pace.plan.clone(), pace.clock);
        let (cpu_before, threads_before) = (cpu_seconds(), ThreadTimes::of_senders());
        let began_ns = clock.now_ns();
        let (cancel, cancelled) = watch::channel(false);
        let (options, live, client) = (self.options, self.live.clone(), self.client.clone());
        let sender = Arc::new(Sender {
            client: self.client,
            options,
            identity: self.identity,
            tracer: self.tracer,
            clock,
            live: live.clone(),
            slots: options.max_inflight.map(|n| Arc::new(Semaphore::new(n))),
            cancelled,
        });
        let (over, ended) = watch::channel(false);
        let mut annotations = JoinSet::new();
        for planned in self.annotations {
            annotations.spawn(planned.carry_out(clock, ended.clone()));
        }
        let chains = Chains::of(&plan);
        let (due, mut jobs) = mpsc::channel(DUE_QUEUE);
        let mut flight =
            Flight::new(&plan, chains.clone(), Pacer::start(pace, chains.waiting(), due)?);
        flight.offer(&sender, &mut jobs, &mut stop, &mut progress).await?;
        drop(jobs);
        flight.land(options.grace, &cancel, &mut stop, (&mut progress, &live)).await?;
        let wall_ns = clock.now_ns();
        let threads = ThreadTimes::of_senders();
        let cpu_s = cpu_before.zip(cpu_seconds()).map(|(before, after)| after - before);
        over.send_replace(true);
        let mut annotations = annotations.join_all().await;
        annotations.sort_by_key(|annotation| annotation.intended_ns);
        progress.finish(&live.snapshot());
        let (busiest, starved) = threads_before.until(&threads, wall_ns - began_ns);
        let connections = client.connections_opened();
        let client = ClientUse { threads: options.threads, busiest, starved, connections };
        let outcome = RunOutcome { annotations, client, cpu_s, wall_ns, ..RunOutcome::default() };
        flight.finish(outcome).await
    }
}
