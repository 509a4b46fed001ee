//! The run loop: sends every request at its time, waits for the last, and never slows the schedule.

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
use super::turns::Chains;
use super::{ClientUse, Display, RunError, RunOutcome, SendOptions};

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
        progress.show(&live.snapshot());
        let (busiest, starved) = threads_before.until(&threads, wall_ns - began_ns);
        let connections = client.connections_opened();
        let client = ClientUse { threads: options.threads, busiest, starved, connections };
        let outcome = RunOutcome { client, cpu_s, wall_ns, ..RunOutcome::default() };
        flight.finish(outcome).await
    }
}
