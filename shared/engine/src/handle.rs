//! The shell's side of the step loop: bounded queues and atomics, never a lock that both take.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use protocol::{ErrorClass, Refusal, RequestKey, Sampling, TokenId, TokenLogprob};
use scheduling::planner::Gate;
use scheduling::sequence::{NewSequence, Sequence};
use tokio::sync::mpsc;

use crate::report::Report;
use crate::tickets::{Signals, Ticket, Tickets};

/// Most imports and notices that wait for the step loop.
pub(crate) const COMMANDS_MAX: usize = 64;
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

/// The state of token choice beside the sequence itself.
#[derive(Clone, Debug)]
pub struct SamplingState {
    /// The rules of choice.
    pub sampling: Sampling,
    /// Alternatives to report with each token.
    pub top_logprobs: Option<u8>,
    /// Alternatives to report with each prompt token.
    pub prompt_logprobs: Option<u8>,
    /// True if steps that work on this sequence are reported for its trace.
    pub traced: bool,
    pub(crate) scored: Vec<Option<TokenLogprob>>,
    pub(crate) chunks: u32,
    pub(crate) opened: bool,
}

impl SamplingState {
    /// Creates the state of a new sequence.
    pub fn new(sampling: Sampling, top: Option<u8>, prompt: Option<u8>) -> Self {
        Self {
            sampling,
            top_logprobs: top,
            prompt_logprobs: prompt,
            traced: false,
            scored: Vec::new(),
            chunks: 0,
            opened: false,
        }
    }
}

/// A sequence on its way to the planner. Its slot in the queue is reserved.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) sequence: Sequence,
    pub(crate) sampling_state: SamplingState,
    pub(crate) ticket: Arc<Ticket>,
}

/// A message to the step loop.
#[derive(Debug)]
pub(crate) enum Command {
    /// Check arrivals and tickets.
    Wake,
    /// A fetched block.
    Import { key: RequestKey, block: usize, bytes: Vec<u8> },
    /// The fetch ended; the first `tokens` tokens are imported.
    Fetched { key: RequestKey, tokens: usize },
    /// The token that the prefill worker chose.
    FirstToken { key: RequestKey, token: TokenId },
    /// Export the blocks from one index up to another, which the pool has and the store lacks.
    Export { key: RequestKey, from: usize, to: usize },
}

/// The step loop no longer accepts commands, or not in time.
#[derive(Debug, thiserror::Error)]
#[error("the step loop {0}")]
pub struct EngineGone(&'static str);

/// A cheap handle on the step loop. No call waits for a step, except that sending blocks and notices
/// waits while `COMMANDS_MAX` of them are queued.
#[derive(Clone)]
pub struct EngineHandle {
    pub(crate) gate: Gate,
    pub(crate) arrivals: mpsc::Sender<Arrival>,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) tickets: Arc<Tickets>,
    pub(crate) signals: Arc<Signals>,
    pub(crate) report: Arc<ArcSwap<Report>>,
    pub(crate) alive: Arc<AtomicBool>,
}

impl EngineHandle {
    /// Accepts a sequence and reserves its slot in the queue, or refuses it at once. The same key
    /// again is accepted again.
    pub fn submit(
        &self,
        new: NewSequence,
        sampling_state: SamplingState,
        now_ms: u64,
    ) -> Result<(), Refusal> {
        let key = new.key;
        if self.tickets.has(&key) {
            return Ok(());
        }
        // On the caller's thread, since hashing a prompt's blocks takes a while.
        let sequence = self.gate.check(new, now_ms)?;
        let ticket = Ticket::new(sequence.lease_until_ms);
        let arrival = Arrival { sequence, sampling_state, ticket: ticket.clone() };
        self.tickets.insert(key, ticket, || self.send(arrival))?;
        self.wake();
        Ok(())
    }

    fn send(&self, arrival: Arrival) -> Result<(), Refusal> {
        self.signals.reserve(self.gate.queue_max()).map_err(|waiting| self.gate.full(waiting))?;
        self.arrivals.try_send(arrival).map_err(|error| {
            self.signals.adjust(-1);
            match error {
                mpsc::error::TrySendError::Full(_) => self.gate.full(self.gate.queue_max()),
                mpsc::error::TrySendError::Closed(_) => {
                    Refusal::new(ErrorClass::Retry, "this worker's engine has ended")
                }
            }
        })
    }

    /// Cancels a sequence: it sends no more events, a running step ignores it, and its pages are free
    /// for the next step. Returns true if it was present.
    pub fn cancel(&self, key: &RequestKey) -> bool {
        let was_present = self.tickets.cancel(key, &self.signals);
        self.wake();
        was_present
    }

    /// Renews leases; returns the keys of unknown sequences.
    pub fn renew(&self, keys: &[RequestKey], now_ms: u64) -> Vec<RequestKey> {
        let until_ms = self.gate.lease_until_ms(now_ms);
        keys.iter().filter(|key| !self.tickets.renew(key, until_ms)).copied().collect()
    }

    /// Imports a fetched block into its page.
    pub async fn import(
        &self,
        key: RequestKey,
        block: usize,
        bytes: Vec<u8>,
    ) -> Result<(), EngineGone> {
        self.command(Command::Import { key, block, bytes }).await
    }

    /// Ends the fetch of a sequence whose first `tokens` tokens were imported.
    pub async fn fetched(&self, key: RequestKey, tokens: usize) -> Result<(), EngineGone> {
        self.command(Command::Fetched { key, tokens }).await
    }

    /// Hands over the first token of a sequence whose prompt another worker computed.
    pub async fn first_token(&self, key: RequestKey, token: TokenId) -> Result<(), EngineGone> {
        self.command(Command::FirstToken { key, token }).await
    }

    /// Requests the export of blocks that the pool has and the store lacks.
    pub async fn export(&self, key: RequestKey, from: usize, to: usize) -> Result<(), EngineGone> {
        self.command(Command::Export { key, from, to }).await
    }

    /// Returns the most tokens of a step.
    pub fn step_tokens(&self) -> usize {
        self.gate.step_tokens()
    }

    /// Returns pool, load, speed and times, for presence and metrics: at most [`crate::stepper::HOUSEKEEPING`]
    /// and one step old.
    pub fn report(&self) -> Arc<Report> {
        self.report.load_full()
    }

    /// Returns how often the lock of the shell's table was taken, the only lock of this handle.
    pub fn lock_acquisitions(&self) -> u64 {
        self.tickets.acquisitions()
    }

    /// Returns false once the step loop has ended.
    pub fn alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    /// Wakes the loop; a full command queue wakes it anyway.
    fn wake(&self) {
        let _ = self.commands.try_send(Command::Wake);
    }

    async fn command(&self, command: Command) -> Result<(), EngineGone> {
        match tokio::time::timeout(COMMAND_TIMEOUT, self.commands.send(command)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(EngineGone("has ended")),
            Err(_) => Err(EngineGone("accepted no command in time")),
        }
    }
}
