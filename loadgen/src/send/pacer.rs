//! The pacing threads: one makes bodies, one waits for each intended time. If turns of sessions
//! wait for the preceding one, a third makes their bodies on demand.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::plan::Plan;
use crate::plan::body::{BodyTemplate, Endpoint};
use crate::plan::messages::History;
use crate::plan::prompt::PromptMaker;
use crate::send::clock::Clock;
use crate::send::due::{DueQueue, Job, Step};
use crate::send::turns::NextTurn;

/// Number of bodies that are made ahead of their time.
const BODIES_AHEAD: usize = 64;
/// Number of due requests that may wait for the runtime.
pub(crate) const DUE_QUEUE: usize = 4096;
/// Longest sleep, so that a stop takes effect even if its wake-up is lost.
const LONGEST_SLEEP: Duration = Duration::from_millis(100);

/// Input of the pacing threads.
pub struct Pace {
    /// Requests with their times.
    pub plan: Arc<Plan>,
    /// Maker of the prompts.
    pub prompts: PromptMaker,
    /// Earlier turns that the prompts of a chat are made of.
    pub history: History,
    /// Template of the bodies.
    pub template: BodyTemplate,
    /// Clock of the run.
    pub clock: Clock,
}

impl Pace {
    fn job(&self, index: usize, intended_ns: i64) -> Job {
        let request = &self.plan.requests[index];
        let prompt = match self.template.endpoint {
            Endpoint::Completions => self.prompts.prompt(request),
            Endpoint::Chat => {
                let lengths = self.history.messages(&self.plan.requests, index);
                self.prompts.chat(request, &lengths)
            }
        };
        let body = prompt.map(|prompt| self.template.body(prompt, request.output_tokens));
        Job { index, intended_ns, body: body.map_err(|e| e.to_string()) }
    }
}

struct State {
    queue: DueQueue,
    stopped: bool,
}

/// State that the threads share.
struct Due {
    state: Mutex<State>,
    /// Notified when a job is added, and at the end.
    changed: Condvar,
    /// Notified when a body is handed out, so that another can be made.
    room: Condvar,
}

impl Due {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a job. Returns false once the run is over.
    fn push(&self, job: Job, scheduled: bool) -> bool {
        let mut state = self.lock();
        while scheduled && state.queue.ahead() >= BODIES_AHEAD && !state.stopped {
            let waited = self.room.wait_timeout(state, LONGEST_SLEEP);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if state.stopped {
            return false;
        }
        state.queue.push(job, scheduled);
        drop(state);
        self.changed.notify_one();
        true
    }
}

/// The running pacing threads. They end when the plan is through or the receiver is dropped.
pub(crate) struct Pacer {
    due: Arc<Due>,
    turns: Option<SyncSender<NextTurn>>,
    threads: Vec<JoinHandle<()>>,
}

impl Pacer {
    /// Starts the threads. They send jobs to `out` at their intended times; those of `waiting` need
    /// a time from [`schedule`](Self::schedule) first.
    pub(crate) fn start(
        pace: Pace,
        waiting: Vec<bool>,
        out: tokio::sync::mpsc::Sender<Job>,
    ) -> Result<Self, std::io::Error> {
        let queue = DueQueue::new(pace.plan.requests.len());
        let state = Mutex::new(State { queue, stopped: false });
        let due = Arc::new(Due { state, changed: Condvar::new(), room: Condvar::new() });
        let (clock, pace) = (pace.clock, Arc::new(pace));
        let follow_ups = waiting.iter().filter(|waits| **waits).count();
        let mut pacer = Self { due: due.clone(), turns: None, threads: Vec::new() };
        if follow_ups > 0 {
            let (turns, orders) = sync_channel(follow_ups);
            let (pace, due) = (pace.clone(), due.clone());
            pacer.spawn("loadgen-turns", move || make_turns(&pace, &due, &orders))?;
            pacer.turns = Some(turns);
        }
        let made = due.clone();
        pacer.spawn("loadgen-bodies", move || make_bodies(&pace, &made, &waiting))?;
        pacer.spawn("loadgen-pacer", move || wait_and_hand_out(&due, clock, &out))?;
        Ok(pacer)
    }

    fn spawn(
        &mut self,
        name: &str,
        work: impl FnOnce() + Send + 'static,
    ) -> Result<(), std::io::Error> {
        self.threads.push(thread::Builder::new().name(name.to_owned()).spawn(work)?);
        Ok(())
    }

    /// Schedules a request that waits for the preceding turn.
    pub(crate) fn schedule(&self, turn: NextTurn) {
        // The channel has room for every waiting request, so this never blocks. A thread that has
        // ended has stopped with the run.
        let gone = self.turns.as_ref().is_none_or(|orders| orders.try_send(turn).is_err());
        if gone {
            self.drop_waiting(1);
        }
    }

    /// Drops `count` waiting requests, which will not be sent.
    pub(crate) fn drop_waiting(&self, count: usize) {
        self.due.lock().queue.drop_waiting(count);
        self.due.changed.notify_one();
    }

    /// Stops the handing out of requests.
    pub(crate) fn stop(&mut self) {
        self.due.lock().stopped = true;
        self.turns = None;
        self.due.changed.notify_all();
        self.due.room.notify_all();
    }

    /// Stops the threads and waits for them. The receiver of the jobs must be dropped or drained.
    pub(crate) fn join(mut self) -> thread::Result<()> {
        self.stop();
        self.threads.into_iter().try_for_each(JoinHandle::join)
    }
}

fn make_bodies(pace: &Pace, due: &Due, waiting: &[bool]) {
    for (index, request) in pace.plan.requests.iter().enumerate() {
        if !waiting[index] && !due.push(pace.job(index, request.intended_ns), true) {
            return;
        }
    }
}

fn make_turns(pace: &Pace, due: &Due, orders: &Receiver<NextTurn>) {
    for NextTurn { index, intended_ns } in orders {
        if !due.push(pace.job(index, intended_ns), false) {
            return;
        }
    }
}

fn wait_and_hand_out(due: &Due, clock: Clock, out: &tokio::sync::mpsc::Sender<Job>) {
    let mut state = due.lock();
    while !state.stopped {
        let patience = match state.queue.step(clock.now_ns()) {
            Step::HandOut(job) => {
                drop(state);
                due.room.notify_one();
                if out.blocking_send(job).is_err() {
                    return;
                }
                state = due.lock();
                continue;
            }
            Step::Wait(ns) => Duration::from_nanos(ns.unsigned_abs()).min(LONGEST_SLEEP),
            Step::Idle => LONGEST_SLEEP,
            Step::Over => return,
        };
        let waited = due.changed.wait_timeout(state, patience);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
    }
}
