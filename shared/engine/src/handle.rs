//! How the shell speaks to the step loop.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::{PoolState, Refusal, RequestKey, Sampling, Speed, TokenId, TokenLogprob};
use scheduling::planner::{Load, Planner};
use scheduling::sequence::NewSequence;
use scheduling::speed::SpeedFit;
use tokio::sync::mpsc;

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
            scored: Vec::new(),
            chunks: 0,
            opened: false,
        }
    }
}

/// What shell and step loop share, behind its lock.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Mutex<State>>);

impl Shared {
    pub(crate) fn new(planner: Planner) -> Self {
        let state = State { planner, extras: BTreeMap::new(), speed: SpeedFit::default() };
        Self(Arc::new(Mutex::new(state)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic aborts the process (chassis), so a poisoned lock only occurs in tests.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The planner and what goes with it.
pub(crate) struct State {
    pub(crate) planner: Planner,
    pub(crate) extras: BTreeMap<RequestKey, Extras>,
    pub(crate) speed: SpeedFit,
}

/// A message into the step loop.
#[derive(Debug)]
pub(crate) enum Command {
    /// Look at the planner again.
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

/// A cheap handle on the step loop.
#[derive(Clone)]
pub struct EngineHandle {
    pub(crate) shared: Shared,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) alive: Arc<AtomicBool>,
}

impl EngineHandle {
    /// Takes a sequence, or says at once why not.
    pub fn submit(&self, new: NewSequence, extras: Extras, now_ms: u64) -> Result<(), Refusal> {
        {
            let mut state = self.shared.lock();
            let key = new.key;
            state.planner.submit(new, now_ms)?;
            state.extras.entry(key).or_insert(extras);
        }
        self.wake();
        Ok(())
    }

    /// Gives a sequence up: its pages are free at once, a step under way ignores it. True when it
    /// was here.
    pub fn cancel(&self, key: &RequestKey) -> bool {
        let mut state = self.shared.lock();
        state.extras.remove(key);
        let was_here = state.planner.retire(key).is_some();
        drop(state);
        self.wake();
        was_here
    }

    /// Renews leases; gives back the keys that are not here.
    pub fn keep(&self, keys: &[RequestKey], now_ms: u64) -> Vec<RequestKey> {
        let mut state = self.shared.lock();
        keys.iter().filter(|key| !state.planner.keep(key, now_ms)).copied().collect()
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

    /// Names of the full blocks of a sequence.
    pub fn names(&self, key: &RequestKey) -> Vec<protocol::BlockHash> {
        let state = self.shared.lock();
        state.planner.sequence(key).map(|sequence| sequence.names().to_vec()).unwrap_or_default()
    }

    /// Pool, load and speed, for presence and metrics.
    pub fn report(&self) -> (PoolState, Load, Speed) {
        let state = self.shared.lock();
        (state.planner.pool_state(), state.planner.load(), state.speed.speed())
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
