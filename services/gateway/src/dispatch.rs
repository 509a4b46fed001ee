//! Runs generations on workers: admits, places, sends, follows, repairs, cancels.
//!
//! Every generation has a task of its own that runs its [`Journey`](scheduling::journey::Journey)
//! and performs what that says. Three more tasks feed them: tokens from the bus, presence, and the
//! keep-alive. Nothing here decides; nothing here knows text.

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
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
use self::task::Drive;
use crate::dispatch::fleet::Fleet;
use crate::observe::stages::StageNotes;

/// Inputs that wait for a request's task. What finds no room is asked for again as a gap.
const INPUTS_WAITING_MAX: usize = 1_024;
/// Blocks of prompts that are remembered: a million tokens in some 2 MiB.
const PREFIX_BLOCKS_MAX: usize = 65_536;

/// One choice of one client request, ready to run.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Its identity, drawn at random.
    pub request: RequestId,
    /// The prompt.
    pub prompt: Arc<[TokenId]>,
    /// How to choose tokens.
    pub sampling: Sampling,
    /// When to stop.
    pub stopping: Stopping,
    /// Alternatives to report with each token.
    pub top_logprobs: Option<u8>,
    /// Alternatives to report with each prompt token.
    pub prompt_logprobs: Option<u8>,
    /// Whose KV blocks these are.
    pub scope: Scope,
    /// When it becomes worthless.
    pub deadline: SystemTime,
    /// The place of its spans: under the request's.
    pub trace: Trace,
    /// When tokenizing ended; the admit stage starts here.
    pub tokenized: SystemTime,
    /// Where its stages are noted, when the client asked for them.
    pub stages: Option<StageNotes>,
}

/// What a running generation yields.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// The next token, in order, without gap or repetition; the last one carries `finish`.
    Token(TokenEvent),
    /// It ends here, without the rest.
    Failed(Refusal),
}

/// Bounds of the dispatcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DispatchLimits {
    /// Most generations in flight, and most sequences waiting on one worker.
    pub admission: AdmissionLimits,
    /// Attempts, gaps, repairs.
    pub journey: JourneyLimits,
    /// When prefill and decode run on different workers.
    pub disaggregate: Disaggregate,
    /// Tokens that wait for a client that does not read; one more and the request is cancelled.
    pub unread_max: usize,
    /// How long running generations may go on after the stop.
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

/// Starts generations and runs them; cheap to clone.
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
    drives: Mutex<JoinSet<()>>,
    /// Locked for some microseconds, never across an await.
    prefixes: Mutex<Prefixes>,
}

/// What is known of a generation when it starts.
struct Admitted {
    at: SystemTime,
    /// This gateway's names of its prompt's blocks; none where nothing may be reused.
    names: Names,
}

impl Dispatcher {
    /// A dispatcher that starts nothing before [`spawn`](Self::spawn).
    pub fn new(bus: Bus, fleet: Fleet, gateway: GatewayId, limits: DispatchLimits) -> Self {
        let shared = Shared {
            bus,
            fleet,
            gateway,
            limits,
            table: Table::default(),
            counters: Counters::default(),
            drives: Mutex::default(),
            prefixes: Mutex::new(Prefixes::new(PREFIX_BLOCKS_MAX)),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Adds this dispatcher's counters to `/metrics`.
    pub fn register(&self, registry: &mut Registry) {
        self.shared.counters.register(registry);
    }

    /// Subscribes to tokens, then follows tokens, presence and keep-alive in `tasks`. On its stop
    /// they go on until the last generation has ended, for `limits.drain` at most. What `tracer`
    /// hears about the worth of traces is told to everyone.
    pub async fn spawn(&self, tasks: &mut Tasks, tracer: Tracer) -> Result<(), SubscribeError> {
        let tokens = self.shared.bus.tokens(&self.shared.gateway).await?;
        let stop = tasks.stop();
        tasks.spawn("tokens", follow::tokens(self.shared.clone(), tokens, stop.clone()));
        tasks.spawn("presence", follow::presence(self.shared.clone(), stop.clone()));
        tasks.spawn("keep-alive", follow::keep_alive(self.shared.clone(), stop.clone()));
        if tracer.is_keeping() {
            tasks.spawn("verdicts", verdicts::tell(self.shared.bus.clone(), tracer, stop));
        }
        Ok(())
    }

    /// Admits a generation and waits, milliseconds as a rule, until workers have taken it. Refused
    /// before any work where that can be; abandoning the call gives it up.
    pub async fn start(&self, generation: Generation) -> Result<Running, Refusal> {
        let shared = &self.shared;
        let (sender, inbox) = mpsc::channel(INPUTS_WAITING_MAX);
        let names = match generation.prompt_logprobs {
            // Scoring looks at every token.
            Some(_) => Names::of(generation.scope, &[]),
            None => Names::of(generation.scope, &generation.prompt),
        };
        let key = self.admit(&generation, &names, sender)?;
        let admitted = SystemTime::now();
        let stage = names::stage::ADMIT;
        generation.trace.stage(stage, generation.tokenized..admitted, []);
        if let Some(notes) = &generation.stages {
            notes.stage(stage, generation.tokenized..admitted);
        }
        let (pieces, receiver) = mpsc::channel(shared.limits.unread_max.max(1));
        let (stop, stopped) = oneshot::channel();
        let (started, answer) = oneshot::channel();
        let running = Running { pieces: receiver, stop: Some(stop) };
        let client = Client::new(pieces, started, stopped);
        let drive =
            Drive::new(shared.clone(), generation, Admitted { at: admitted, names }, inbox, client);
        shared.own(drive.run());
        match answer.await {
            Ok(Ok(())) => Ok(running),
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
        names: &Names,
        inbox: mpsc::Sender<Input>,
    ) -> Result<RequestId, Refusal> {
        let Shared { fleet, table, limits, bus, .. } = &*self.shared;
        if !bus.connected() {
            return Err(Refusal::new(ErrorClass::Retry, "not connected to NATS"));
        }
        let need = self.shared.need(generation, 0, names);
        let left = generation.deadline.duration_since(SystemTime::now()).unwrap_or_default();
        let inflight = table.len();
        fleet.admit(&need, inflight, left.as_millis() as u64, &limits.admission)?;
        let inflight_max = limits.admission.inflight_max;
        if !table.insert(generation.request, inbox, inflight_max) {
            let retry_after_ms = fleet.retry_after().as_millis() as u32;
            let inflight = table.len();
            return Err(AdmitError::Inflight { inflight, inflight_max, retry_after_ms }.into());
        }
        Ok(generation.request)
    }

    /// Whether a generation would succeed now; if not, why.
    pub fn readiness(&self) -> Result<(), String> {
        if !self.shared.bus.connected() {
            return Err("not connected to NATS".to_owned());
        }
        self.shared.fleet.readiness()
    }

    /// Generations in flight.
    pub fn inflight(&self) -> usize {
        self.shared.table.len()
    }

    /// The longest sequence that a ready worker holds.
    pub fn max_model_len(&self) -> Option<u32> {
        self.shared.fleet.tokens_max()
    }

    /// For `Retry-After`: when the shortest queue is expected to be empty.
    pub fn retry_after(&self) -> Duration {
        self.shared.fleet.retry_after()
    }
}

impl Shared {
    /// Runs a request's task; the set reaps it, and aborts it with the dispatcher.
    fn own(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut drives = self.drives.lock().unwrap_or_else(PoisonError::into_inner);
        while drives.try_join_next().is_some() {}
        drives.spawn(task);
    }

    /// What a generation asks of the workers after `generated` tokens.
    fn need(&self, generation: &Generation, generated: usize, names: &Names) -> Need {
        let tokens = u32::try_from(generation.prompt.len() + generated).unwrap_or(u32::MAX);
        let generated = u32::try_from(generated).unwrap_or(u32::MAX);
        let output_tokens = generation.stopping.max_tokens.saturating_sub(generated);
        let cached_tokens = self.prefixes().expected(names.blocks(), tokens);
        Need { tokens, cached_tokens, output_tokens }
    }

    fn prefixes(&self) -> MutexGuard<'_, Prefixes> {
        self.prefixes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker is gone: nobody is sent there, and whoever depends on it goes on elsewhere.
    fn lose(&self, worker: &protocol::WorkerId) {
        self.fleet.gone(worker);
        self.table.tell_all(|_| Input::Gone { worker: worker.clone() });
    }
}

fn epoch_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

fn epoch_us(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64
}

/// A generation in flight. Dropping it gives it up as [`CancelReason::ClientGone`].
pub struct Running {
    pieces: mpsc::Receiver<Piece>,
    stop: Option<oneshot::Sender<CancelReason>>,
}

impl Running {
    /// The next piece; `None` after the last. Safe to abandon.
    pub async fn next(&mut self) -> Option<Piece> {
        self.pieces.recv().await
    }

    /// Gives the rest up for `reason`.
    pub fn stop(mut self, reason: CancelReason) {
        if let Some(stop) = self.stop.take() {
            let _already_ended = stop.send(reason);
        }
    }
}
