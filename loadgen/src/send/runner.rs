//! The run loop: sends every request at its time and waits for the last one.

use std::sync::Arc;

use chassis::Tracer;
use tokio::sync::{Semaphore, mpsc, watch};

use super::client::Client;
use super::clock::{ThreadTimes, cpu_seconds};
use super::flight::Flight;
use super::identity::Identity;
use super::live::Live;
use super::pacer::{DUE_QUEUE, Pace, Pacer};
use super::sending::Sender;
use super::turns::TurnChains;
use super::{ClientUse, Display, RunError, RunOutcome, SendOptions};

/// A runner of plans with one client.
pub struct Runner {
    /// Client of the server.
    pub client: Client,
    /// Options for sending.
    pub options: SendOptions,
    /// Identity of the run.
    pub identity: Identity,
    /// Counters of the run.
    pub live: Arc<Live>,
    /// Tracer for the spans of requests, if they are recorded.
    pub tracer: Option<Tracer>,
}

impl Runner {
    /// Runs the plan in `pace`. The first message in `stop` ends the sending and leaves requests in
    /// flight their grace; the second one cancels them.
    pub async fn run(
        self,
        pace: Pace,
        mut stop: mpsc::Receiver<String>,
        mut progress: impl Display,
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
        let chains = TurnChains::of(&plan);
        let (due, mut jobs) = mpsc::channel(DUE_QUEUE);
        let mut flight =
            Flight::new(&plan, chains.clone(), Pacer::start(pace, chains.waiting(), due)?);
        flight.offer(&sender, &mut jobs, &mut stop, &mut progress).await?;
        drop(jobs);
        flight.drain(options.grace, &cancel, &mut stop, &mut progress, &live).await?;
        let wall_ns = clock.now_ns();
        let threads = ThreadTimes::of_senders();
        let cpu_s = cpu_before.zip(cpu_seconds()).map(|(before, after)| after - before);
        progress.show(&live.snapshot());
        let (busiest, starved) = threads_before.until(&threads, wall_ns - began_ns);
        let connections = client.connections_opened();
        let client = ClientUse { threads: options.threads, busiest, starved, connections };
        let outcome = RunOutcome { client, cpu_s, wall_ns, ..RunOutcome::default() };
        flight.finish(outcome).await
    }
}
