//! One iteration of the step loop: drain commands, plan, compute, choose, commit, report.
//!
//! The loop owns its planner. In steady decoding an iteration takes no lock and allocates nothing
//! but for the blocks that it completes; `tests/steady.rs` counts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use chassis::clock::now_ms;
use model::sampling::Chooser;
use model::{BatchSequence, StepOutput};
use protocol::{BLOCK_TOKENS, BlockHash, ErrorClass, Refusal, RequestKey};
use scheduling::planner::{Outcome, Planner, Row};
use scheduling::pool::Page;
use scheduling::speed::{SpeedFit, StepWork};
use tokio::sync::mpsc;

use super::inbox::Inbox;
use super::outbox::Outbox;
use super::sampler::StepSampler;
use super::{HOUSEKEEPING, IDLE_WAIT, row};
use crate::compute::{Compute, ComputeError};
use crate::events::{BlockEvent, Events, StepEvent, StepRecord};
use crate::handle::{Arrival, COMMANDS_MAX, Command, EngineHandle, SamplingState};
use crate::report::{Report, StepTimes};
use crate::tickets::{Signals, Ticket, Tickets};

/// The shell's ends of a step loop.
pub struct Ends {
    /// The handle for the shell.
    pub handle: EngineHandle,
    /// The events of steps.
    pub steps: mpsc::Receiver<Events>,
    /// The blocks to store.
    pub blocks: mpsc::Receiver<BlockEvent>,
}

/// The outcome of an iteration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Iteration {
    /// A step was computed or failed.
    Stepped,
    /// There was nothing to compute.
    Idle,
    /// Every handle is gone.
    Closed,
}

/// The state of a sequence beside the planner's.
struct Slot {
    sampling_state: SamplingState,
    ticket: Arc<Ticket>,
}

/// The step loop without its thread.
pub struct StepLoop<C> {
    compute: C,
    planner: Planner,
    slots: BTreeMap<RequestKey, Slot>,
    inbox: Inbox,
    outbox: Outbox,
    report: Arc<ArcSwap<Report>>,
    speed: SpeedFit,
    times: StepTimes,
    sampler: StepSampler,
    failed_steps: u32,
    /// The time of the next housekeeping.
    housekeeping_at: Instant,
    /// True if anything changed since the last report.
    dirty: bool,
    // Reused from step to step for their memory.
    rows: Vec<Row>,
    batch: Vec<BatchSequence<'static>>,
    output: StepOutput,
    chooser: Chooser,
    outcomes: Vec<(RequestKey, Outcome)>,
}

impl<C: Compute> StepLoop<C> {
    /// Creates a loop over an empty planner; at most `blocks_max` blocks wait for the store.
    pub fn new(compute: C, planner: Planner, blocks_max: usize) -> (Self, Ends) {
        let gate = planner.gate();
        let (commands, commands_in) = mpsc::channel(COMMANDS_MAX);
        let (arrivals, arrivals_in) = mpsc::channel(gate.queue_max().max(1));
        let (outbox, steps, blocks) = Outbox::new(blocks_max);
        let signals = Arc::new(Signals::default());
        let first = Report { pool: planner.pool_state(), ..Report::default() };
        let report = Arc::new(ArcSwap::from_pointee(first));
        let handle = EngineHandle {
            gate,
            arrivals,
            commands,
            tickets: Arc::new(Tickets::default()),
            signals: signals.clone(),
            report: report.clone(),
            alive: Arc::new(AtomicBool::new(true)),
        };
        let step_loop = Self {
            compute,
            planner,
            slots: BTreeMap::new(),
            inbox: Inbox::new(commands_in, arrivals_in, signals),
            outbox,
            report,
            speed: SpeedFit::default(),
            times: StepTimes::default(),
            sampler: StepSampler::default(),
            failed_steps: 0,
            housekeeping_at: Instant::now(),
            dirty: false,
            rows: Vec::new(),
            batch: Vec::new(),
            output: StepOutput::default(),
            chooser: Chooser::default(),
            outcomes: Vec::new(),
        };
        (step_loop, Ends { handle, steps, blocks })
    }

    /// Returns the planner, for inspection.
    pub fn planner(&self) -> &Planner {
        &self.planner
    }

    /// Returns the model, for inspection.
    pub fn compute(&self) -> &C {
        &self.compute
    }

    /// Returns the number of failed steps since the last one that succeeded.
    pub fn failed_steps(&self) -> u32 {
        self.failed_steps
    }

    /// Waits for a command, or for the next housekeeping if there is anything to housekeep.
    pub async fn wait(&mut self, now: Instant) {
        let limit = if self.dirty || !self.slots.is_empty() {
            self.housekeeping_at.saturating_duration_since(now)
        } else {
            IDLE_WAIT
        };
        self.inbox.wait(limit).await;
    }

    /// Drains the commands and computes one step, if there is one to compute.
    pub fn iterate(&mut self) -> Iteration {
        let began = Instant::now();
        self.drain_commands();
        if self.inbox.closed() {
            return Iteration::Closed;
        }
        if began >= self.housekeeping_at {
            self.housekeep(began);
        }
        self.admit();
        self.planner.plan_into(&mut self.rows);
        self.inbox.settle(self.planner.waiting());
        // The shell fetches for the sequences just admitted while the others compute.
        self.outbox.send();
        if self.rows.is_empty() {
            return Iteration::Idle;
        }
        self.dirty = true;
        self.step(began);
        Iteration::Stepped
    }

    /// Applies commands before arrivals: the commands in a full queue were sent before the wake-up of
    /// an arrival that found it full.
    fn drain_commands(&mut self) {
        for _ in 0..Inbox::commands_max() {
            let Some(command) = self.inbox.command() else { break };
            self.apply(command);
        }
        while let Some(arrival) = self.inbox.arrival() {
            self.take(arrival);
        }
        if self.inbox.signals.take_cancelled() {
            let cancelled = self.slots.iter().filter(|(_, slot)| !slot.ticket.wanted());
            let cancelled: Vec<RequestKey> = cancelled.map(|(key, _)| *key).collect();
            cancelled.iter().for_each(|key| self.retire(key));
        }
    }

    fn take(&mut self, Arrival { sequence, sampling_state, ticket }: Arrival) {
        self.dirty = true;
        let key = sequence.key;
        if ticket.wanted() && self.planner.enqueue(sequence) {
            self.slots.insert(key, Slot { sampling_state, ticket });
        }
    }

    fn apply(&mut self, command: Command) {
        self.dirty = true;
        match command {
            Command::Wake => {}
            Command::Import { key, block, bytes } => {
                let Some(page) = self.planner.page_for_import(&key, block) else { return };
                match self.compute.import_block(page, &bytes) {
                    Ok(()) => self.planner.imported(&key, block),
                    Err(error) => self.fail(&key, &error),
                }
            }
            Command::Fetched { key, tokens } => self.planner.fetched(&key, tokens),
            Command::FirstToken { key, token } => {
                if self.planner.first_token(&key, token).is_some() {
                    // The prefill worker sent the last token; this worker only frees the pages.
                    self.retire(&key);
                }
            }
            Command::Export { key, from, to } => {
                let Some(sequence) = self.planner.sequence(&key) else { return };
                let all = sequence.names().iter().copied().zip(sequence.pages.iter().copied());
                let blocks: Vec<(BlockHash, Page)> = all.take(to).skip(from).collect();
                for (hash, page) in blocks {
                    self.export(key, hash, page, BLOCK_TOKENS);
                }
            }
        }
    }

    /// Copies renewed leases to the planner, ends expired sequences, publishes the report.
    fn housekeep(&mut self, now: Instant) {
        self.housekeeping_at = now + HOUSEKEEPING;
        for (key, slot) in &self.slots {
            self.planner.keep_until(key, slot.ticket.lease_until_ms());
        }
        for expired in self.planner.expire(now_ms()) {
            self.retire(&expired.key);
            self.outbox.push(StepEvent::Failed { key: expired.key, refusal: expired.refusal });
        }
        if self.dirty || !self.slots.is_empty() {
            self.dirty = false;
            self.report.store(Arc::new(Report {
                pool: self.planner.pool_state(),
                load: self.planner.load(),
                speed: self.speed.speed(),
                times: self.times,
            }));
        }
    }

    fn admit(&mut self) {
        if self.planner.waiting() == 0 {
            return;
        }
        let at = SystemTime::now();
        for admitted in self.planner.admit() {
            self.outbox.push(StepEvent::Admitted { admitted, at });
        }
    }

    fn step(&mut self, began: Instant) {
        let started = Instant::now();
        let (work, computed) = self.forward();
        let forward = started.elapsed();
        if let Err(error) = computed {
            self.failed_steps += 1;
            self.times.failed += 1;
            tracing::error!(%error, sequences = self.rows.len(), "step failed");
            for index in 0..self.rows.len() {
                let key = self.rows[index].key;
                self.fail(&key, &error);
            }
            return;
        }
        self.failed_steps = 0;
        self.report_step(began, forward, &work);
        self.commit();
        self.outbox.send();
        let exporting = Instant::now();
        self.export_outcomes();
        self.record_times(began, forward, exporting);
        // The whole iteration, since the next one waits for all of it.
        self.speed.observe(&work, began.elapsed().as_secs_f64() * 1e6);
    }

    /// Computes the planned rows and returns their amount of work.
    fn forward(&mut self) -> (StepWork, Result<(), ComputeError>) {
        let mut batch = row::recycled(std::mem::take(&mut self.batch));
        let mut work = StepWork::default();
        for row in &self.rows {
            let sequence = self.planner.sequence(&row.key).expect("planned from the sequences");
            let slot = self.slots.get_mut(&row.key).expect("a slot exists for every sequence");
            match row.count {
                1 if !sequence.output().is_empty() => work.generating(row.start),
                count => work.prompt(row.start, count),
            }
            if sequence.output().is_empty() || row.count > 1 {
                slot.sampling_state.chunks += 1;
            }
            batch.push(row::batch_row(row, sequence, &slot.sampling_state));
        }
        let computed = self.compute.forward(&batch, &mut self.output);
        self.batch = row::recycled(batch);
        (work, computed)
    }

    /// Reports a step that worked on recorded requests, unless the sampler leaves it out. Comes before
    /// the step's tokens, whose stages link to it.
    fn report_step(&mut self, began: Instant, forward: Duration, work: &StepWork) {
        let (slots, rows) = (&self.slots, &self.rows);
        let recorded = || {
            rows.iter().filter_map(|row| {
                let slot = slots.get(&row.key).filter(|slot| slot.sampling_state.traced)?;
                Some((row.key, !slot.sampling_state.opened))
            })
        };
        let Some(opens) = recorded().map(|(_, opens)| opens).reduce(|one, other| one || other)
        else {
            return;
        };
        let now = Instant::now();
        let Some(unrecorded) = self.sampler.record(now, opens) else { return };
        let ended = SystemTime::now();
        let record = StepRecord {
            time: ended - now.duration_since(began)..ended,
            forward,
            sequences: rows.len() as u32,
            prefill_tokens: work.prefill_tokens,
            decode_sequences: work.decode_sequences,
            unrecorded,
            keys: recorded().map(|(key, _)| key).collect(),
        };
        self.outbox.push(StepEvent::Stepped(Box::new(record)));
    }

    /// Chooses and commits the tokens of the step, without those of sequences cancelled meanwhile.
    fn commit(&mut self) {
        for (index, row) in self.rows.iter().enumerate() {
            let slot = self.slots.get_mut(&row.key).filter(|slot| slot.ticket.wanted());
            let (Some(slot), Some(sequence)) = (slot, self.planner.sequence(&row.key)) else {
                continue;
            };
            let last = self.output.sequence(index).next_back();
            let chosen = row::choose(row, last, sequence, &slot.sampling_state, &mut self.chooser);
            row::score_prompt(row, &self.output, index, sequence, &mut slot.sampling_state);
            let token = chosen.as_ref().map(|chosen| chosen.0);
            let Some(outcome) = self.planner.commit(row, token) else { continue };
            let sequence = self.planner.sequence(&row.key).expect("committed just now");
            if let Some(event) =
                row::token_event(sequence, &mut slot.sampling_state, chosen, &outcome)
            {
                self.outbox.push(event);
            }
            if outcome.done || !outcome.sealed.is_empty() {
                self.outcomes.push((row.key, outcome));
            }
        }
    }

    fn export_outcomes(&mut self) {
        let mut outcomes = std::mem::take(&mut self.outcomes);
        for (key, outcome) in outcomes.drain(..) {
            for (_, hash, page) in &outcome.sealed {
                self.export(key, *hash, *page, BLOCK_TOKENS);
            }
            if let Some((hash, page, tokens)) = outcome.tail.filter(|_| outcome.finish.is_none()) {
                self.export(key, hash, page, tokens);
            }
            if outcome.done {
                self.retire(&key);
                self.outbox.block(BlockEvent::Complete { key });
            }
        }
        self.outcomes = outcomes;
    }

    fn export(&mut self, key: RequestKey, hash: BlockHash, page: Page, tokens: usize) {
        let event = match self.compute.export_block(page, tokens as u32) {
            Ok(bytes) => {
                BlockEvent::Sealed { key, hash, tokens: tokens as u32, bytes: Bytes::from(bytes) }
            }
            Err(error) => {
                tracing::error!(%hash, %error, "failed to export a block");
                BlockEvent::Dropped { key, hash }
            }
        };
        self.outbox.block(event);
    }

    fn record_times(&mut self, began: Instant, forward: Duration, exporting: Instant) {
        let ended = Instant::now();
        self.times.steps += 1;
        self.times.forward += forward;
        self.times.export += ended - exporting;
        self.times.whole += ended - began;
    }

    fn fail(&mut self, key: &RequestKey, error: &ComputeError) {
        self.retire(key);
        let refusal = Refusal::new(ErrorClass::Retry, format!("the engine failed: {error}"));
        self.outbox.push(StepEvent::Failed { key: *key, refusal });
        self.outbox.send();
    }

    fn retire(&mut self, key: &RequestKey) {
        self.planner.retire(key);
        if let Some(slot) = self.slots.remove(key) {
            slot.ticket.gone();
        }
    }
}
