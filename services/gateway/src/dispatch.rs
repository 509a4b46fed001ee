//! The dispatcher: it admits generations, sends them to workers, follows, repairs and cancels them.
//!
//! Every generation has a task that runs its [`Journey`](scheduling::journey::Journey) and performs
//! the actions that the journey returns. Three more tasks feed them: tokens from the bus, presence,
//! and the renewal of leases. The decisions are `scheduling`'s; text does not occur here.

pub mod backend;
mod client;
pub mod fleet;
mod follow;
pub mod history;
mod metrics;
mod spans;
mod status;
mod table;
mod task;
mod verdicts;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bus::{Bus, SubscribeError};
use chassis::Tasks;
use chassis::metrics::Registry;
use chassis::telemetry::{Trace, Tracer, names};
use protocol::{
    CancelReason, ErrorClass, GatewayId, Refusal, RequestId, Sampling, Scope, Stopping, TokenEvent,
    TokenId,
};
use scheduling::admission::{AdmissionLimits, AdmitError};
use scheduling::journey::{Input, JourneyLimits};
use scheduling::route::{Disaggregate, Names, Need, Prefixes};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use self::client::Client;
pub(crate) use self::metrics::Counters;
use self::table::Table;
use self::task::GenerationTask;
use crate::dispatch::fleet::Fleet;
use crate::observe::stages::StageNotes;

/// Most inputs that wait for a generation's task. An input beyond that is dropped; dropped tokens are
/// requested again as a gap.
const INPUTS_WAITING_MAX: usize = 1_024;
/// Most block hashes of prompts that are remembered: a million tokens in some 2 MiB.
const PREFIX_BLOCKS_MAX: usize = 65_536;

/// One choice of one client request, ready to run.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Its id, drawn at random.
    pub request: RequestId,
    /// The prompt.
    pub prompt: Arc<[TokenId]>,
    /// Sampling parameters.
    pub sampling: Sampling,
    /// Stop conditions.
    pub stopping: Stopping,
    /// Alternatives to report with each token.
    pub top_logprobs: Option<u8>,
    /// Alternatives to report with each prompt token.
    pub prompt_logprobs: Option<u8>,
    /// Scope of its KV blocks.
    pub scope: Scope,
    /// Moment after which its output is useless.
    pub deadline: SystemTime,
    /// Trace context under the request's span.
    pub trace: Trace,
    /// End of tokenizing, where the admit stage begins.
    pub tokenized: SystemTime,
    /// Stage notes, if the client asked for them.
    pub stages: Option<StageNotes>,
}

/// An event of a running generation.
#[derive(Clone, Debug, PartialEq)]
pub enum GenerationEvent {
    /// The next token, in order, without gap or repetition; the last one carries `finish`.
    Token(TokenEvent),
    /// The generation failed; nothing follows.
    Failed(Refusal),
}

/// Bounds of the dispatcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DispatchLimits {
    /// Most generations in flight, and most sequences waiting on one worker.
    pub admission: AdmissionLimits,
    /// Attempts, gaps, repairs.
    pub journey: JourneyLimits,
    /// Policy for prefill and decode on different workers.
    pub disaggregate: Disaggregate,
    /// Most tokens that wait for a slow client; one more cancels the request.
    pub unread_max: usize,
    /// Longest time that running generations may continue after the stop.
    pub drain: Duration,
}

impl Default for DispatchLimits {
    fn default() -> Self {
        Self {
            admission: AdmissionLimits { inflight_max: 256, queue_sequences_max: 64 },
            journey: JourneyLimits::default(),
            disaggregate: Disaggregate::default(),
            unread_max: 2_048,
            drain: Duration::from_secs(8),
        }
    }
}

/// The dispatcher of generations; cheap to clone.
#[derive(Clone)]
pub struct Dispatcher {
    shared: Arc<Shared>,
}

struct Shared {
    bus: Bus,
    fleet: Fleet,
    gateway: GatewayId,
    limits: DispatchLimits,
    table: Table,
    counters: Counters,
    tasks: Mutex<JoinSet<()>>,
    /// Locked for microseconds, never across an await.
    prefixes: Mutex<Prefixes>,
}

/// The facts of a generation that was admitted.
struct Admission {
    at: SystemTime,
    /// This gateway's hashes of the prompt's blocks; none if nothing may be reused.
    hashes: Names,
}

impl Dispatcher {
    /// Returns a dispatcher that starts nothing before [`spawn`](Self::spawn).
    pub fn new(bus: Bus, fleet: Fleet, gateway: GatewayId, limits: DispatchLimits) -> Self {
        let shared = Shared {
            bus,
            fleet,
            gateway,
            limits,
            table: Table::default(),
            counters: Counters::default(),
            tasks: Mutex::default(),
            prefixes: Mutex::new(Prefixes::new(PREFIX_BLOCKS_MAX)),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Adds this dispatcher's metrics to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        self.shared.counters.register(registry);
    }

    /// Subscribes to tokens, then follows tokens and presence and renews leases in `tasks`. After the
    /// stop they continue until the last generation has ended, for `limits.drain` at most. Publishes the
    /// verdicts of `tracer`, so that other services export or discard held spans.
    pub async fn spawn(&self, tasks: &mut Tasks, tracer: Tracer) -> Result<(), SubscribeError> {
        let tokens = self.shared.bus.tokens(&self.shared.gateway).await?;
        let stop = tasks.stop();
        tasks.spawn("tokens", follow::tokens(self.shared.clone(), tokens, stop.clone()));
        tasks.spawn("presence", follow::presence(self.shared.clone(), stop.clone()));
        tasks.spawn("leases", follow::renew_leases(self.shared.clone(), stop.clone()));
        if tracer.is_keeping() {
            tasks.spawn("verdicts", verdicts::publish(self.shared.bus.clone(), tracer, stop));
        }
        Ok(())
    }

    /// Admits a generation and waits until workers have accepted it, usually for milliseconds. Refuses
    /// before any work if it can; dropping the future cancels the generation.
    pub async fn start(&self, generation: Generation) -> Result<GenerationHandle, Refusal> {
        let shared = &self.shared;
        let (sender, inbox) = mpsc::channel(INPUTS_WAITING_MAX);
        let hashes = match generation.prompt_logprobs {
            // Scoring needs every token computed.
            Some(_) => Names::of(generation.scope, &[]),
            None => Names::of(generation.scope, &generation.prompt),
        };
        let key = self.admit(&generation, &hashes, sender)?;
        let admitted = SystemTime::now();
        let stage = names::stage::ADMIT;
        generation.trace.stage(stage, generation.tokenized..admitted, []);
        if let Some(notes) = &generation.stages {
            notes.stage(stage, generation.tokenized..admitted);
        }
        let (events, receiver) = mpsc::channel(shared.limits.unread_max.max(1));
        let (stop, stopped) = oneshot::channel();
        let (started, accepted) = oneshot::channel();
        let handle = GenerationHandle { events: receiver, stop: Some(stop) };
        let client = Client::new(events, started, stopped);
        let admission = Admission { at: admitted, hashes };
        let task = GenerationTask::new(shared.clone(), generation, admission, inbox, client);
        shared.spawn(task.run());
        match accepted.await {
            Ok(Ok(())) => Ok(handle),
            Ok(Err(refusal)) => Err(refusal),
            Err(_) => {
                let message = format!("the task of request {key} ended");
                Err(Refusal::new(ErrorClass::Internal, message))
            }
        }
    }

    fn admit(
        &self,
        generation: &Generation,
        hashes: &Names,
        inbox: mpsc::Sender<Input>,
    ) -> Result<RequestId, Refusal> {
        let Shared { fleet, table, limits, bus, .. } = &*self.shared;
        if !bus.connected() {
            return Err(Refusal::new(ErrorClass::Retry, "not connected to NATS"));
        }
        let need = self.shared.need(generation, 0, hashes);
        let time_left = generation.deadline.duration_since(SystemTime::now()).unwrap_or_default();
        let inflight = table.len();
        fleet.admit(&need, inflight, time_left.as_millis() as u64, &limits.admission)?;
        let inflight_max = limits.admission.inflight_max;
        if !table.insert(generation.request, inbox, inflight_max) {
            let retry_after_ms = fleet.retry_after().as_millis() as u32;
            let inflight = table.len();
            return Err(AdmitError::Inflight { inflight, inflight_max, retry_after_ms }.into());
        }
        Ok(generation.request)
    }

    /// Returns the reason why a generation would fail now.
    pub fn readiness(&self) -> Result<(), String> {
        if !self.shared.bus.connected() {
            return Err("not connected to NATS".to_owned());
        }
        self.shared.fleet.readiness()
    }

    /// Returns the number of generations in flight.
    pub fn inflight(&self) -> usize {
        self.shared.table.len()
    }

    /// Returns the longest sequence that a ready worker holds.
    pub fn max_model_len(&self) -> Option<u32> {
        self.shared.fleet.tokens_max()
    }

    /// Returns the time until the shortest queue is expected to be empty, for `Retry-After`.
    pub fn retry_after(&self) -> Duration {
        self.shared.fleet.retry_after()
    }
}

impl Shared {
    /// Spawns a generation's task. The set reaps it, and aborts it with the dispatcher.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    /// Returns the demand of a generation on workers after `generated` tokens.
    fn need(&self, generation: &Generation, generated: usize, hashes: &Names) -> Need {
        let tokens = u32::try_from(generation.prompt.len() + generated).unwrap_or(u32::MAX);
        let generated = u32::try_from(generated).unwrap_or(u32::MAX);
        let output_tokens = generation.stopping.max_tokens.saturating_sub(generated);
        let cached_tokens = self.prefixes().expected(hashes.blocks(), tokens);
        Need { tokens, cached_tokens, output_tokens }
    }

    fn prefixes(&self) -> MutexGuard<'_, Prefixes> {
        self.prefixes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes a worker that is gone; the generations that depend on it continue elsewhere.
    fn lose(&self, worker: &protocol::WorkerId) {
        self.fleet.gone(worker);
        self.table.broadcast(|_| Input::Gone { worker: worker.clone() });
    }
}

/// A generation in flight. Dropping it cancels it as [`CancelReason::ClientGone`].
pub struct GenerationHandle {
    events: mpsc::Receiver<GenerationEvent>,
    stop: Option<oneshot::Sender<CancelReason>>,
}

impl GenerationHandle {
    /// Returns the next event; `None` after the last. The future may be dropped and called again.
    pub async fn next(&mut self) -> Option<GenerationEvent> {
        self.events.recv().await
    }

    /// Cancels the rest for `reason`.
    pub fn stop(mut self, reason: CancelReason) {
        if let Some(stop) = self.stop.take() {
            let _already_ended = stop.send(reason);
        }
    }
}
