//! The step loop: plan, compute, commit, on the one thread that owns the model.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use model::{BatchSequence, RowOutput, StepOutput, Wanted, sampling};
use protocol::{
    BLOCK_TOKENS, BlockHash, ErrorClass, Opening, Refusal, RequestKey, TokenId, TokenLogprob,
};
use scheduling::planner::{Logits, Outcome, Planner, Row};
use scheduling::pool::Page;
use scheduling::sequence::Part;
use tokio::sync::mpsc;

use crate::compute::{Compute, ComputeError};
use crate::events::{BlockEvent, StepEvent};
use crate::handle::{COMMANDS_MAX, Command, EngineHandle, Extras, Shared};

/// Steps' events that wait for the shell.
const STEP_EVENTS_MAX: usize = 1024;
/// How often deadlines and leases are looked at while nothing happens.
const IDLE_TICK: Duration = Duration::from_millis(100);
/// Failed steps in a row after which the worker gives up and is started again.
const FAILED_STEPS_MAX: u32 = 3;

/// The ends of a running step loop.
pub struct Engine<I> {
    /// For the shell.
    pub handle: EngineHandle,
    /// Tokens and the like.
    pub steps: mpsc::Receiver<Vec<StepEvent>>,
    /// Blocks to store.
    pub blocks: mpsc::Receiver<BlockEvent>,
    /// What loading found out.
    pub info: I,
    /// Ends when every handle is gone, or after repeated failures.
    pub thread: std::thread::JoinHandle<()>,
}

/// What a loader brings.
pub struct Loaded<C, I> {
    /// The model.
    pub compute: C,
    /// An empty planner that fits it.
    pub planner: Planner,
    /// Blocks that may wait for the store.
    pub blocks_max: usize,
    /// What the shell wants to know.
    pub info: I,
}

/// Starts the loop. `load` runs on the loop's own thread, since a model stays where it was made;
/// this call returns when it is loaded, so it belongs on a thread that may block.
///
/// # Errors
/// What `load` reports, or the system's refusal to start a thread.
pub fn start<C: Compute, I: Send + 'static>(
    load: impl FnOnce() -> Result<Loaded<C, I>, ComputeError> + Send + 'static,
) -> Result<Engine<I>, ComputeError> {
    let (ready, loaded) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new()
        .name("engine".to_owned())
        .spawn(move || match load() {
            Err(error) => drop(ready.send(Err(error))),
            Ok(Loaded { compute, planner, blocks_max, info }) => {
                let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
                let (steps_out, steps) = mpsc::channel(STEP_EVENTS_MAX);
                let (blocks_out, blocks) = mpsc::channel(blocks_max);
                // The loop shares the state only: it must not keep its own inbox open.
                let shared = Shared::new(planner);
                let alive = Arc::new(AtomicBool::new(true));
                let handle =
                    EngineHandle { shared: shared.clone(), commands, alive: alive.clone() };
                if ready.send(Ok((handle, steps, blocks, info))).is_ok() {
                    Stepper { compute, shared, inbox, steps_out, blocks_out, failed_steps: 0 }
                        .run();
                }
                alive.store(false, Ordering::Release);
            }
        })
        .map_err(|error| ComputeError(format!("start the engine thread: {error}")))?;
    let (handle, steps, blocks, info) = loaded
        .recv()
        .map_err(|_| ComputeError("the engine thread ended while loading".to_owned()))??;
    Ok(Engine { handle, steps, blocks, info, thread })
}

struct Stepper<C> {
    compute: C,
    shared: Shared,
    inbox: mpsc::Receiver<Command>,
    steps_out: mpsc::Sender<Vec<StepEvent>>,
    blocks_out: mpsc::Sender<BlockEvent>,
    failed_steps: u32,
}

/// A row with what the model needs of its sequence, copied out of the lock.
struct Prepared {
    row: Row,
    tokens: Vec<TokenId>,
    pages: Vec<Page>,
    prompt_tokens: usize,
    banned: Vec<TokenId>,
    wants_no_token: bool,
    extras: Extras,
}

impl<C: Compute> Stepper<C> {
    fn run(mut self) {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build()
        else {
            tracing::error!("no timer for the engine thread");
            return;
        };
        let mut idle = false;
        loop {
            if idle {
                let waited = runtime
                    .block_on(async { tokio::time::timeout(IDLE_TICK, self.inbox.recv()).await });
                match waited {
                    Ok(None) => return,
                    Ok(Some(command)) => self.obey(command),
                    Err(_) => {}
                }
            }
            loop {
                match self.inbox.try_recv() {
                    Ok(command) => self.obey(command),
                    Err(mpsc::error::TryRecvError::Empty) => break,
                    Err(mpsc::error::TryRecvError::Disconnected) => return,
                }
            }
            idle = !self.step();
            if FAILED_STEPS_MAX <= self.failed_steps {
                tracing::error!(steps = self.failed_steps, "steps keep failing: giving up");
                return;
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Wake => {}
            Command::Import { key, block, bytes } => {
                let page = self.shared.lock().planner.page_for_import(&key, block);
                let Some(page) = page else { return };
                match self.compute.import_block(page, &bytes) {
                    Ok(()) => self.shared.lock().planner.imported(&key, block),
                    Err(error) => self.give_up(&key, &error),
                }
            }
            Command::Fetched { key, tokens } => self.shared.lock().planner.fetched(&key, tokens),
            Command::FirstToken { key, token } => {
                let finish = self.shared.lock().planner.first_token(&key, token);
                if finish.is_some() {
                    // The prefill worker has told the gateway; here it only frees the pages.
                    self.retire(&key);
                }
            }
            Command::Export { key, from, to } => {
                let blocks: Vec<(BlockHash, Page)> = {
                    let state = self.shared.lock();
                    let Some(sequence) = state.planner.sequence(&key) else { return };
                    let names = sequence.names().iter().copied();
                    let all = names.zip(sequence.pages.iter().copied());
                    all.take(to).skip(from).collect()
                };
                for (name, page) in blocks {
                    self.export(key, name, page, BLOCK_TOKENS);
                }
            }
        }
    }

    /// One step. False when there was nothing to compute.
    fn step(&mut self) -> bool {
        let (events, prepared) = self.prepare();
        self.tell(events);
        if prepared.is_empty() {
            return false;
        }
        let started = Instant::now();
        let batch: Vec<BatchSequence<'_>> = prepared.iter().map(batch_row).collect();
        let mut output = StepOutput::default();
        let computed = self.compute.forward(&batch, &mut output);
        drop(batch);
        match computed {
            Ok(()) => {
                self.failed_steps = 0;
                self.finish_step(prepared, &output, started);
            }
            Err(error) => {
                self.failed_steps += 1;
                tracing::error!(%error, sequences = prepared.len(), "step failed");
                for row in &prepared {
                    self.give_up(&row.row.key, &error);
                }
            }
        }
        true
    }

    fn prepare(&self) -> (Vec<StepEvent>, Vec<Prepared>) {
        let mut state = self.shared.lock();
        let state = &mut *state;
        let mut events = Vec::new();
        for expired in state.planner.expire(unix_ms()) {
            state.extras.remove(&expired.key);
            events.push(StepEvent::Failed { key: expired.key, refusal: expired.refusal });
        }
        let at = SystemTime::now();
        for admitted in state.planner.admit() {
            events.push(StepEvent::Admitted { admitted, at });
        }
        let mut prepared = Vec::new();
        for row in state.planner.plan() {
            let sequence = state.planner.sequence(&row.key).expect("planned from the sequences");
            let extras = state.extras.get_mut(&row.key).expect("submitted together");
            if sequence.output().is_empty() || 1 < row.count {
                extras.chunks += 1;
            }
            prepared.push(Prepared {
                tokens: sequence.tokens.clone(),
                pages: sequence.pages.clone(),
                prompt_tokens: sequence.prompt_tokens,
                banned: sequence.banned().to_vec(),
                wants_no_token: sequence.wants_no_token(),
                extras: Extras { scored: Vec::new(), ..extras.clone() },
                row,
            });
        }
        (events, prepared)
    }

    fn finish_step(&mut self, prepared: Vec<Prepared>, output: &StepOutput, started: Instant) {
        let chosen: Vec<Option<(TokenId, Option<TokenLogprob>)>> =
            prepared.iter().enumerate().map(|(index, row)| choose(row, output, index)).collect();
        let (prefill, decode) = count(&prepared);
        let step_us = started.elapsed().as_secs_f64() * 1e6;
        let mut events = Vec::new();
        let mut outcomes = Vec::new();
        {
            let mut state = self.shared.lock();
            let state = &mut *state;
            state.speed.observe(prefill, decode, step_us);
            for (index, (row, chosen)) in prepared.iter().zip(chosen).enumerate() {
                let token = chosen.as_ref().map(|chosen| chosen.0);
                let Some(outcome) = state.planner.commit(&row.row, token) else { continue };
                if let Some(extras) = state.extras.get_mut(&row.row.key) {
                    score_prompt(row, output, index, extras);
                    events.extend(token_event(&state.planner, row, extras, chosen, &outcome));
                }
                outcomes.push((row.row.key, outcome));
            }
        }
        self.tell(events);
        for (key, outcome) in outcomes {
            self.export_outcome(key, &outcome);
        }
    }

    fn export_outcome(&mut self, key: RequestKey, outcome: &Outcome) {
        for (_, name, page) in &outcome.sealed {
            self.export(key, *name, *page, BLOCK_TOKENS);
        }
        if let Some((name, page, tokens)) = outcome.tail.filter(|_| outcome.finish.is_none()) {
            self.export(key, name, page, tokens);
        }
        if outcome.done {
            self.retire(&key);
            self.tell_block(BlockEvent::Complete { key });
        }
    }

    fn export(&mut self, key: RequestKey, name: BlockHash, page: Page, tokens: usize) {
        let event = match self.compute.export_block(page, tokens as u32) {
            Ok(bytes) => {
                BlockEvent::Sealed { key, name, tokens: tokens as u32, bytes: Bytes::from(bytes) }
            }
            Err(error) => {
                tracing::error!(%error, %name, "block not exported");
                BlockEvent::Unstored { key, name }
            }
        };
        self.tell_block(event);
    }

    /// A shell that cannot store as fast as blocks are computed loses the store's copy, not time.
    fn tell_block(&self, event: BlockEvent) {
        let event = match self.blocks_out.try_send(event) {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => return,
            Err(mpsc::error::TrySendError::Full(BlockEvent::Sealed { key, name, .. })) => {
                BlockEvent::Unstored { key, name }
            }
            Err(mpsc::error::TrySendError::Full(other)) => other,
        };
        let _ = self.blocks_out.blocking_send(event);
    }

    fn tell(&self, events: Vec<StepEvent>) {
        if !events.is_empty() {
            let _ = self.steps_out.blocking_send(events);
        }
    }

    fn give_up(&self, key: &RequestKey, error: &ComputeError) {
        self.retire(key);
        let refusal = Refusal::new(ErrorClass::Retry, format!("the engine failed: {error}"));
        self.tell(vec![StepEvent::Failed { key: *key, refusal }]);
    }

    fn retire(&self, key: &RequestKey) {
        let mut state = self.shared.lock();
        state.planner.retire(key);
        state.extras.remove(key);
    }
}

fn batch_row(prepared: &Prepared) -> BatchSequence<'_> {
    let row = &prepared.row;
    BatchSequence {
        tokens: &prepared.tokens[row.start..row.start + row.count],
        position: row.start,
        pages: &prepared.pages,
        logits: match row.logits {
            Logits::None => Wanted::None,
            Logits::Last => Wanted::Last,
            Logits::All => Wanted::All,
        },
    }
}

fn count(prepared: &[Prepared]) -> (u32, u32) {
    prepared.iter().fold((0, 0), |(prefill, decode), row| match row.row.count {
        1 if row.prompt_tokens < row.tokens.len() => (prefill, decode + 1),
        count => (prefill + count as u32, decode),
    })
}

/// Chooses the next token from a row's last logits, if the row ends what is known and one is
/// wanted.
fn choose(
    row: &Prepared,
    output: &StepOutput,
    index: usize,
) -> Option<(TokenId, Option<TokenLogprob>)> {
    let ends = row.row.start + row.row.count == row.tokens.len();
    if !ends {
        return None;
    }
    let RowOutput::Whole(last) = output.sequence(index).next_back()? else { return None };
    if row.wants_no_token {
        return None;
    }
    let (prompt, output) = row.tokens.split_at(row.prompt_tokens);
    let sampling = &row.extras.sampling;
    let position = row.tokens.len() as u64;
    let token = sampling::sample(last, sampling, prompt, output, position, &row.banned);
    let logprob = row.extras.top_logprobs.map(|top| logprob(last, token, top));
    Some((token, logprob))
}

fn logprob(logits: &[f32], token: TokenId, top: u8) -> TokenLogprob {
    let (logprob, top) = sampling::logprobs(logits, token, usize::from(top));
    TokenLogprob { logprob, top }
}

/// Collects the log-probabilities of prompt tokens: row `i` predicts token `i + 1`.
fn score_prompt(row: &Prepared, output: &StepOutput, index: usize, extras: &mut Extras) {
    let Some(top) = extras.prompt_logprobs.filter(|_| row.row.logits == Logits::All) else {
        return;
    };
    if extras.scored.is_empty() {
        extras.scored.push(None);
    }
    for (offset, scored) in output.sequence(index).enumerate() {
        let predicted = row.row.start + offset + 1;
        let RowOutput::Whole(logits) = scored else { continue };
        if predicted < row.prompt_tokens && predicted == extras.scored.len() {
            extras.scored.push(Some(logprob(logits, row.tokens[predicted], top)));
        }
    }
}

fn token_event(
    planner: &Planner,
    row: &Prepared,
    extras: &mut Extras,
    chosen: Option<(TokenId, Option<TokenLogprob>)>,
    outcome: &Outcome,
) -> Option<StepEvent> {
    if outcome.index.is_none() && outcome.finish.is_none() {
        return None;
    }
    let sequence = planner.sequence(&row.row.key)?;
    let (token, logprob) = chosen.map_or((None, None), |(token, logprob)| (Some(token), logprob));
    let opening = (!extras.opened && sequence.part != Part::Decode).then(|| {
        Box::new(Opening {
            cached_tokens: (sequence.local_tokens + sequence.stored_tokens) as u32,
            stored_tokens: sequence.stored_tokens as u32,
            prompt_logprobs: std::mem::take(&mut extras.scored),
        })
    });
    extras.opened = true;
    Some(StepEvent::Token {
        key: row.row.key,
        index: outcome.index.unwrap_or(sequence.output().len() as u32),
        token,
        logprob,
        finish: outcome.finish,
        opening,
        chunks: extras.chunks,
    })
}

/// Milliseconds since the Unix epoch.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
