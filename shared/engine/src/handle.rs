//! How the shell speaks to the step loop: bounded queues and atomics, never a lock that both take.

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

/// Imports and notices that wait for the step loop: at most this many.
pub(crate) const COMMANDS_MAX: usize = 64;
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

/// What choosing tokens needs beyond the sequence itself.
#[derive(Clone, Debug)]
pub struct Extras {
    /// How to choose.
    pub sampling: Sampling,
    /// Alternatives to report with each token.
    pub top_logprobs: Option<u8>,
    /// Alternatives to report with each prompt token.
    pub prompt_logprobs: Option<u8>,
    /// Whether steps that work on this sequence are told for its trace.
    pub traced: bool,
    pub(crate) scored: Vec<Option<TokenLogprob>>,
    pub(crate) chunks: u32,
    pub(crate) opened: bool,
}

impl Extras {
    /// Fresh extras.
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

/// A sequence on its way to the planner. Its place in the queue is taken already.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) sequence: Sequence,
    pub(crate) extras: Extras,
    pub(crate) ticket: Arc<Ticket>,
}

/// A message into the step loop.
#[derive(Debug)]
pub(crate) enum Command {
    /// Look at arrivals and tickets.
    Wake,
    /// A fetched block.
    Import { key: RequestKey, block: usize, bytes: Vec<u8> },
    /// The fetch is over; the first `tokens` tokens are in.
    Fetched { key: RequestKey, tokens: usize },
    /// The token that the prefill worker chose.
    FirstToken { key: RequestKey, token: TokenId },
    /// Blocks that are here but not in the store: from one index up to another.
    Export { key: RequestKey, from: usize, to: usize },
}

/// The step loop does not take commands any more, or not in time.
#[derive(Debug, thiserror::Error)]
#[error("the step loop {0}")]
pub struct EngineGone(&'static str);

/// A cheap handle on the step loop. Nothing in it waits for a step, except the sending of blocks
/// and notices when [`COMMANDS_MAX`] of them wait already.
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
    /// Takes a sequence, its place in the queue reserved, or says at once why not. The same key
    /// again is accepted again.
    pub fn submit(&self, new: NewSequence, extras: Extras, now_ms: u64) -> Result<(), Refusal> {
        let key = new.key;
        if self.tickets.has(&key) {
            return Ok(());
        }
        // On the caller's thread, since naming a prompt's blocks takes a while.
        let sequence = self.gate.check(new, now_ms)?;
        let ticket = Ticket::new(sequence.lease_until_ms);
        let arrival = Arrival { sequence, extras, ticket: ticket.clone() };
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

    /// Gives a sequence up: it says nothing more, a step under way ignores it, and its pages are
    /// free for the next one. True when it was here.
    pub fn cancel(&self, key: &RequestKey) -> bool {
        let was_here = self.tickets.give_up(key, &self.signals);
        self.wake();
        was_here
    }

    /// Renews leases; gives back the keys that are not here.
    pub fn keep(&self, keys: &[RequestKey], now_ms: u64) -> Vec<RequestKey> {
        let until_ms = self.gate.lease_until_ms(now_ms);
        keys.iter().filter(|key| !self.tickets.keep_until(key, until_ms)).copied().collect()
    }

    /// Brings a fetched block into its page.
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

    /// Asks for blocks that are in the pool but not in the store.
    pub async fn export(&self, key: RequestKey, from: usize, to: usize) -> Result<(), EngineGone> {
        self.command(Command::Export { key, from, to }).await
    }

    /// Most tokens of a step.
    pub fn step_tokens(&self) -> usize {
        self.gate.step_tokens()
    }

    /// Pool, load, speed and times, for presence and metrics: at most [`crate::stepper::HOUSEKEEPING`]
    /// and one step old.
    pub fn report(&self) -> Arc<Report> {
        self.report.load_full()
    }

    /// How often the lock of the shell's table was taken, the only one between shell and loop.
    pub fn lock_acquisitions(&self) -> u64 {
        self.tickets.acquisitions()
    }

    /// False once the step loop has ended.
    pub fn alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    /// A full command queue wakes the loop anyway.
    fn wake(&self) {
        let _ = self.commands.try_send(Command::Wake);
    }

    async fn command(&self, command: Command) -> Result<(), EngineGone> {
        match tokio::time::timeout(COMMAND_TIMEOUT, self.commands.send(command)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(EngineGone("has ended")),
            Err(_) => Err(EngineGone("did not take a command in time")),
        }
    }
}
