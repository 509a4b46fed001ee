//! One turn of the step loop: read the mail, plan, compute, choose, commit, tell.
//!
//! The loop owns its planner. In steady decoding a turn takes no lock and allocates nothing, but
//! for the blocks that it completes; `tests/steady.rs` counts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use model::sampling::Chooser;
use model::{BatchSequence, StepOutput};
use protocol::{BLOCK_TOKENS, BlockHash, ErrorClass, Refusal, RequestKey};
use scheduling::planner::{Outcome, Planner, Row};
use scheduling::pool::Page;
use scheduling::speed::{SpeedFit, StepWork};
use tokio::sync::mpsc;

use super::inbox::Inbox;
use super::outbox::Outbox;
use super::watch::Watch;
use super::{HOUSEKEEPING, IDLE_WAIT, row, unix_ms};
use crate::compute::{Compute, ComputeError};
use crate::events::{BlockEvent, Events, StepEvent, StepRecord};
use crate::handle::{Arrival, COMMANDS_MAX, Command, EngineHandle, Extras};
use crate::report::{Report, StepTimes};
use crate::tickets::{Signals, Ticket, Tickets};

/// The shell's ends of a loop.
pub type Ends = (EngineHandle, mpsc::Receiver<Events>, mpsc::Receiver<BlockEvent>);

/// What a turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// A step was computed, or failed.
    Stepped,
    /// There was nothing to compute.
    Idle,
    /// Every handle is gone.
    Over,
}

/// What the loop keeps beside a planner's sequence.
struct Seat {
    extras: Extras,
    ticket: Arc<Ticket>,
}

/// The step loop without its thread.
pub struct StepLoop<C> {
    compute: C,
    planner: Planner,
    seats: BTreeMap<RequestKey, Seat>,
    inbox: Inbox,
    outbox: Outbox,
    report: Arc<ArcSwap<Report>>,
    speed: SpeedFit,
    times: StepTimes,
    watch: Watch,
    failed_steps: u32,
    /// When leases are looked at next, and whether anything happened since the last time.
    housekeeping_at: Instant,
    stirred: bool,
    // Kept from step to step for their memory.
    rows: Vec<Row>,
    batch: Vec<BatchSequence<'static>>,
    output: StepOutput,
    chooser: Chooser,
    outcomes: Vec<(RequestKey, Outcome)>,
}

impl<C: Compute> StepLoop<C> {
    /// A loop over an empty planner; at most `blocks_max` blocks wait for the store.
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
        let turning = Self {
            compute,
            planner,
            seats: BTreeMap::new(),
            inbox: Inbox::new(commands_in, arrivals_in, signals),
            outbox,
            report,
            speed: SpeedFit::default(),
            times: StepTimes::default(),
            watch: Watch::default(),
            failed_steps: 0,
            housekeeping_at: Instant::now(),
            stirred: false,
            rows: Vec::new(),
            batch: Vec::new(),
            output: StepOutput::default(),
            chooser: Chooser::default(),
            outcomes: Vec::new(),
        };
        (turning, (handle, steps, blocks))
    }

    /// The planner, to look at.
    pub fn planner(&self) -> &Planner {
        &self.planner
    }

    /// The model, to look at.
    pub fn compute(&self) -> &C {
        &self.compute
    }

    /// Steps that failed since the last one that did not.
    pub fn failed_steps(&self) -> u32 {
        self.failed_steps
    }

    /// Waits for something to do, or for the next housekeeping if anything needs it.
    pub async fn wait(&mut self, now: Instant) {
        let limit = match self.stirred || !self.seats.is_empty() {
            true => self.housekeeping_at.saturating_duration_since(now),
            false => IDLE_WAIT,
        };
        self.inbox.wait(limit).await;
    }

    /// Reads the mail and makes one step, if there is one to make.
    pub fn turn(&mut self) -> Turn {
        let began = Instant::now();
        self.read_mail();
        if self.inbox.over() {
            return Turn::Over;
        }
        if self.housekeeping_at <= began {
            self.keep_house(began);
        }
        self.admit();
        self.planner.plan_into(&mut self.rows);
        self.inbox.settle(self.planner.waiting());
        // The shell fetches for those just admitted while the others compute.
        self.outbox.send();
        if self.rows.is_empty() {
            return Turn::Idle;
        }
        self.stirred = true;
        self.step(began);
        Turn::Stepped
    }

    /// Commands before arrivals: what filled the command queue came before the wake-up of an
    /// arrival that found it full.
    fn read_mail(&mut self) {
        for _ in 0..Inbox::commands_max() {
            let Some(command) = self.inbox.command() else { break };
            self.obey(command);
        }
        while let Some(arrival) = self.inbox.arrival() {
            self.take(arrival);
        }
        if self.inbox.signals.take_given_up() {
            let gone = self.seats.iter().filter(|(_, seat)| !seat.ticket.wanted());
            let gone: Vec<RequestKey> = gone.map(|(key, _)| *key).collect();
            gone.iter().for_each(|key| self.retire(key));
        }
    }

    fn take(&mut self, Arrival { sequence, extras, ticket }: Arrival) {
        self.stirred = true;
        let key = sequence.key;
        if ticket.wanted() && self.planner.enqueue(sequence) {
            self.seats.insert(key, Seat { extras, ticket });
        }
    }

    fn obey(&mut self, command: Command) {
        self.stirred = true;
        match command {
            Command::Wake => {}
            Command::Import { key, block, bytes } => {
                let Some(page) = self.planner.page_for_import(&key, block) else { return };
                match self.compute.import_block(page, &bytes) {
                    Ok(()) => self.planner.imported(&key, block),
                    Err(error) => self.give_up(&key, &error),
                }
            }
            Command::Fetched { key, tokens } => self.planner.fetched(&key, tokens),
            Command::FirstToken { key, token } => {
                if self.planner.first_token(&key, token).is_some() {
                    // The prefill worker has told the gateway; here it only frees the pages.
                    self.retire(&key);
                }
            }
            Command::Export { key, from, to } => {
                let Some(sequence) = self.planner.sequence(&key) else { return };
                let all = sequence.names().iter().copied().zip(sequence.pages.iter().copied());
                let blocks: Vec<(BlockHash, Page)> = all.take(to).skip(from).collect();
                for (name, page) in blocks {
                    self.export(key, name, page, BLOCK_TOKENS);
                }
            }
        }
    }

    /// Takes over renewed leases, ends what is over, publishes the report.
    fn keep_house(&mut self, now: Instant) {
        self.housekeeping_at = now + HOUSEKEEPING;
        for (key, seat) in &self.seats {
            self.planner.keep_until(key, seat.ticket.lease_until_ms());
        }
        for expired in self.planner.expire(unix_ms()) {
            self.retire(&expired.key);
            self.outbox.note(StepEvent::Failed { key: expired.key, refusal: expired.refusal });
        }
        if self.stirred || !self.seats.is_empty() {
            self.stirred = false;
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
            self.outbox.note(StepEvent::Admitted { admitted, at });
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
                self.give_up(&key, &error);
            }
            return;
        }
        self.failed_steps = 0;
        self.tell_step(began, forward, &work);
        self.commit();
        self.outbox.send();
        let exporting = Instant::now();
        self.export_outcomes();
        self.note_times(began, forward, exporting);
        // All of the turn: the next one waits for all of it.
        self.speed.observe(&work, began.elapsed().as_secs_f64() * 1e6);
    }

    /// Computes the planned rows; also says how much work they are.
    fn forward(&mut self) -> (StepWork, Result<(), ComputeError>) {
        let mut batch = row::recycled(std::mem::take(&mut self.batch));
        let mut work = StepWork::default();
        for row in &self.rows {
            let sequence = self.planner.sequence(&row.key).expect("planned from the sequences");
            let seat = self.seats.get_mut(&row.key).expect("seated with its sequence");
            match row.count {
                1 if !sequence.output().is_empty() => work.generating(row.start),
                count => work.prompt(row.start, count),
            }
            if sequence.output().is_empty() || 1 < row.count {
                seat.extras.chunks += 1;
            }
            batch.push(row::batch_row(row, sequence, &seat.extras));
        }
        let computed = self.compute.forward(&batch, &mut self.output);
        self.batch = row::recycled(batch);
        (work, computed)
    }

    /// Tells the shell of a step that worked on recorded requests, unless it was told of many just
    /// now. Before the step's tokens, whose stages link to it.
    fn tell_step(&mut self, began: Instant, forward: Duration, work: &StepWork) {
        let (seats, rows) = (&self.seats, &self.rows);
        let recorded = || {
            rows.iter().filter_map(|row| {
                let seat = seats.get(&row.key).filter(|seat| seat.extras.traced)?;
                Some((row.key, !seat.extras.opened))
            })
        };
        let Some(opens) = recorded().map(|(_, opens)| opens).reduce(|one, other| one || other)
        else {
            return;
        };
        let now = Instant::now();
        let Some(unrecorded) = self.watch.step(now, opens) else { return };
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
        self.outbox.note(StepEvent::Stepped(Box::new(record)));
    }

    /// Chooses and books the tokens of the step. What was given up meanwhile is passed over.
    fn commit(&mut self) {
        for (index, row) in self.rows.iter().enumerate() {
            let seat = self.seats.get_mut(&row.key).filter(|seat| seat.ticket.wanted());
            let (Some(seat), Some(sequence)) = (seat, self.planner.sequence(&row.key)) else {
                continue;
            };
            let last = self.output.sequence(index).next_back();
            let chosen = row::choose(row, last, sequence, &seat.extras, &mut self.chooser);
            row::score_prompt(row, &self.output, index, sequence, &mut seat.extras);
            let token = chosen.as_ref().map(|chosen| chosen.0);
            let Some(outcome) = self.planner.commit(row, token) else { continue };
            let sequence = self.planner.sequence(&row.key).expect("committed just now");
            if let Some(event) = row::token_event(sequence, &mut seat.extras, chosen, &outcome) {
                self.outbox.note(event);
            }
            if outcome.done || !outcome.sealed.is_empty() {
                self.outcomes.push((row.key, outcome));
            }
        }
    }

    fn export_outcomes(&mut self) {
        let mut outcomes = std::mem::take(&mut self.outcomes);
        for (key, outcome) in outcomes.drain(..) {
            for (_, name, page) in &outcome.sealed {
                self.export(key, *name, *page, BLOCK_TOKENS);
            }
            if let Some((name, page, tokens)) = outcome.tail.filter(|_| outcome.finish.is_none()) {
                self.export(key, name, page, tokens);
            }
            if outcome.done {
                self.retire(&key);
                self.outbox.block(BlockEvent::Complete { key });
            }
        }
        self.outcomes = outcomes;
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
        self.outbox.block(event);
    }

    fn note_times(&mut self, began: Instant, forward: Duration, exporting: Instant) {
        let ended = Instant::now();
        self.times.steps += 1;
        self.times.forward += forward;
        self.times.export += ended - exporting;
        self.times.whole += ended - began;
    }

    fn give_up(&mut self, key: &RequestKey, error: &ComputeError) {
        self.retire(key);
        let refusal = Refusal::new(ErrorClass::Retry, format!("the engine failed: {error}"));
        self.outbox.note(StepEvent::Failed { key: *key, refusal });
        self.outbox.send();
    }

    fn retire(&mut self, key: &RequestKey) {
        self.planner.retire(key);
        if let Some(seat) = self.seats.remove(key) {
            seat.ticket.gone();
        }
    }
}
