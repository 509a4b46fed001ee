//! The run loop: sends every request at its time, waits for the last, and never slows the schedule.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};

use crate::body::Endpoint;
use crate::client::{Call, Client};
use crate::clock::{Clock, cpu_seconds};
use crate::identity::Identity;
use crate::live::Live;
use crate::pacer::{DUE_QUEUE, Job, Pace, Pacer};
use crate::progress::Progress;
use crate::record::{Failure, FailureClass, RequestRecord};
use crate::reply::Reply;

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
}

/// What a run left behind.
#[derive(Debug, Default)]
pub struct RunOutcome {
    /// Requests that were offered and are over, in order of the plan.
    pub records: Vec<RequestRecord>,
    /// Requests in flight that the operator cut off, in order of the plan.
    pub cancelled: Vec<RequestRecord>,
    /// Requests that the operator kept from being offered.
    pub unsent: usize,
    /// Why the run was cut short.
    pub cut_short: Option<String>,
    /// CPU seconds of this process.
    pub cpu_s: Option<f64>,
    /// From the start of the schedule to the end of the last request.
    pub wall_ns: i64,
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

struct Shared {
    client: Client,
    options: SendOptions,
    identity: Identity,
    clock: Clock,
    live: Arc<Live>,
    slots: Option<Arc<Semaphore>>,
    /// Turns true when everything in flight must end.
    cancelled: watch::Receiver<bool>,
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
        let planned = pace.plan.requests.len();
        let clock = pace.clock;
        let cpu_before = cpu_seconds();
        let slots = self.options.max_inflight.map(|n| Arc::new(Semaphore::new(n)));
        let (options, live) = (self.options, self.live.clone());
        let (client, identity) = (self.client, self.identity);
        let (cancel, cancelled) = watch::channel(false);
        let shared = Arc::new(Shared { client, options, identity, clock, live, slots, cancelled });
        let (due, mut jobs) = mpsc::channel(DUE_QUEUE);
        let pacer = Pacer::start(pace, due)?;
        let mut flight = Flight::default();
        flight.offer(&shared, &mut jobs, &mut stop, &mut progress).await?;
        pacer.stop();
        drop(jobs);
        flight.land(options.grace, &cancel, &mut stop, (&mut progress, &self.live)).await?;
        let wall_ns = clock.now_ns();
        tokio::task::spawn_blocking(|| pacer.join())
            .await
            .map_err(|_| RunError::PacerPanicked)?
            .map_err(|_| RunError::PacerPanicked)?;
        progress.finish(&self.live.snapshot());
        let mut all = flight.over;
        all.sort_unstable_by_key(|record| record.index);
        let unsent = planned - all.len();
        let (cancelled, records) =
            all.into_iter().partition(|record| record.failed_as(FailureClass::Cancelled));
        let cpu_s = cpu_before.zip(cpu_seconds()).map(|(before, after)| after - before);
        let cut_short = flight.cut_short;
        Ok(RunOutcome { records, cancelled, unsent, cut_short, cpu_s, wall_ns })
    }
}

/// The requests in flight and those that are over.
#[derive(Default)]
struct Flight {
    tasks: JoinSet<RequestRecord>,
    over: Vec<RequestRecord>,
    cut_short: Option<String>,
}

impl Flight {
    /// Sends what is due until the plan is through or the run is stopped.
    async fn offer(
        &mut self,
        shared: &Arc<Shared>,
        jobs: &mut mpsc::Receiver<Job>,
        stop: &mut mpsc::Receiver<String>,
        progress: &mut Progress,
    ) -> Result<(), RunError> {
        let abort_on_full = shared.options.on_full == OnFull::Abort;
        loop {
            tokio::select! {
                biased;
                job = jobs.recv() => match job {
                    Some(job) => { self.tasks.spawn(request(job, shared.clone())); }
                    None => return Ok(()),
                },
                Some(done) = self.tasks.join_next() => {
                    let dropped = self.collect(done)?;
                    if dropped && abort_on_full {
                        self.cut_short = Some("too many requests in flight".to_owned());
                        return Ok(());
                    }
                }
                Some(reason) = stop.recv() => {
                    self.cut_short = Some(reason);
                    return Ok(());
                }
                () = progress.tick() => progress.show(&shared.live.snapshot()),
            }
        }
    }

    /// Waits for what is in flight: until its time-outs, or for a grace after a stop.
    async fn land(
        &mut self,
        grace: Duration,
        cancel: &watch::Sender<bool>,
        stop: &mut mpsc::Receiver<String>,
        (progress, live): (&mut Progress, &Live),
    ) -> Result<(), RunError> {
        let mut deadline = self.cut_short.is_some().then(|| Instant::now() + grace);
        while !self.tasks.is_empty() {
            let patience = deadline.unwrap_or_else(Instant::now);
            tokio::select! {
                biased;
                Some(done) = self.tasks.join_next() => { self.collect(done)?; }
                () = tokio::time::sleep_until(patience), if deadline.is_some() => {
                    // Each request notices at once and hands in what it has.
                    cancel.send_replace(true);
                    deadline = None;
                }
                Some(reason) = stop.recv() => {
                    let first = self.cut_short.is_none();
                    self.cut_short.get_or_insert(reason);
                    deadline = Some(if first { Instant::now() + grace } else { Instant::now() });
                }
                () = progress.tick() => progress.show(&live.snapshot()),
            }
        }
        Ok(())
    }

    /// Keeps the record of a request that is over; says whether it was dropped.
    fn collect(&mut self, done: Result<RequestRecord, JoinError>) -> Result<bool, RunError> {
        let record = done.map_err(|e| RunError::TaskPanicked(e.to_string()))?;
        let dropped = record.failed_as(FailureClass::Dropped);
        self.over.push(record);
        Ok(dropped)
    }
}

/// One request from its time to its end.
async fn request(job: Job, shared: Arc<Shared>) -> RequestRecord {
    let issued_ns = shared.clock.now_ns();
    let deadline = Instant::now() + shared.options.timeout;
    let ids = shared.identity.of(job.index);
    let mut record = RequestRecord {
        index: job.index,
        intended_ns: job.intended_ns,
        issued_ns,
        dispatched_ns: None,
        written_ns: None,
        first_byte_ns: None,
        reply: Reply::default(),
        finished_ns: issued_ns,
        failure: None,
        request_id: ids.request_id,
        trace_id: ids.trace_id,
    };
    shared.live.issued(record.lag_ns());
    let mut cancelled = shared.cancelled.clone();
    let call = job.body.map(|body| Call {
        endpoint: shared.options.endpoint,
        body,
        traceparent: ids.traceparent,
    });
    let sent = timeout_at(deadline, send(&shared, call, &mut record));
    let failure = tokio::select! {
        biased;
        sent = sent => match sent {
            Ok(Ok(())) => None,
            Ok(Err(failure)) => Some(failure),
            Err(_) => Some(Failure {
                class: FailureClass::Timeout,
                message: format!("not over {:?} after it was due", shared.options.timeout),
            }),
        },
        _ = cancelled.wait_for(|cancelled| *cancelled) => Some(Failure {
            class: FailureClass::Cancelled,
            message: "the run was stopped".to_owned(),
        }),
    };
    record.failure = failure;
    record.finished_ns = shared.clock.now_ns();
    record.reply.tokens.settle();
    shared.live.finished(&record);
    record
}

async fn send(
    shared: &Shared,
    call: Result<Call, String>,
    record: &mut RequestRecord,
) -> Result<(), Failure> {
    let call = call.map_err(|message| Failure { class: FailureClass::Prompt, message })?;
    let _slot = match &shared.slots {
        None => None,
        Some(slots) => {
            Some(match (slots.clone().try_acquire_owned(), shared.options.on_full) {
                (Ok(slot), _) => slot,
                (Err(_), OnFull::Queue) => slots.clone().acquire_owned().await.map_err(|e| {
                    Failure { class: FailureClass::Dropped, message: e.to_string() }
                })?,
                (Err(_), OnFull::Drop | OnFull::Abort) => {
                    let message = "the limit of requests in flight was reached".to_owned();
                    return Err(Failure { class: FailureClass::Dropped, message });
                }
            })
        }
    };
    shared.client.exchange(call, shared.clock, &shared.live, record).await
}
