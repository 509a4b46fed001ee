//! Threads ahead of the sends: one makes bodies, one waits for each intended time. Where later turns
//! of a session wait for the one before, a third makes their bodies on demand.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::plan::Plan;
use crate::plan::body::BodyTemplate;
use crate::plan::prompt::PromptMaker;
use crate::send::clock::Clock;
use crate::send::due::{DueQueue, Job, Step};
use crate::send::turns::Follow;

/// How many bodies are made ahead of their time.
const BODIES_AHEAD: usize = 64;
/// How many due requests may wait for the runtime to take them.
pub const DUE_QUEUE: usize = 4096;
/// The longest sleep, so that a stop is noticed even if its wake-up is lost.
const LONGEST_SLEEP: Duration = Duration::from_millis(100);

/// What the pacing threads need.
pub struct Pace {
    /// What to send and when.
    pub plan: Arc<Plan>,
    /// Makes the prompts.
    pub prompts: PromptMaker,
    /// Makes the bodies.
    pub template: BodyTemplate,
    /// The run's clock.
    pub clock: Clock,
}

impl Pace {
    fn job(&self, index: usize, intended_ns: i64) -> Job {
        let request = &self.plan.requests[index];
        let prompt = self.prompts.prompt(request);
        let body = prompt.map(|prompt| self.template.body(prompt, request.output_tokens));
        Job { index, intended_ns, body: body.map_err(|e| e.to_string()) }
    }
}

struct State {
    queue: DueQueue,
    stopped: bool,
}

/// What the threads share.
struct Due {
    state: Mutex<State>,
    /// Something was added, or the end has come.
    changed: Condvar,
    /// A body was handed out, so another may be made.
    room: Condvar,
}

impl Due {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a job; false once the run is over.
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

/// The running threads. They end by themselves when the plan is through or the receiver is gone.
pub struct Pacer {
    due: Arc<Due>,
    follow: Option<SyncSender<Follow>>,
    threads: Vec<JoinHandle<()>>,
}

impl Pacer {
    /// Starts the threads; jobs come out of `out` at their intended times, those of `waiting` only
    /// once [`follow`](Self::follow) has told theirs.
    pub fn start(
        pace: Pace,
        waiting: Vec<bool>,
        out: tokio::sync::mpsc::Sender<Job>,
    ) -> Result<Self, std::io::Error> {
        let queue = DueQueue::new(pace.plan.requests.len());
        let state = Mutex::new(State { queue, stopped: false });
        let due = Arc::new(Due { state, changed: Condvar::new(), room: Condvar::new() });
        let (clock, pace) = (pace.clock, Arc::new(pace));
        let follow_ups = waiting.iter().filter(|waits| **waits).count();
        let mut pacer = Self { due: due.clone(), follow: None, threads: Vec::new() };
        if follow_ups > 0 {
            let (follow, orders) = sync_channel(follow_ups);
            let (pace, due) = (pace.clone(), due.clone());
            pacer.spawn("loadgen-turns", move || make_turns(&pace, &due, &orders))?;
            pacer.follow = Some(follow);
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

    /// Tells when a request that waits is due.
    pub fn follow(&self, follow: Follow) {
        // There is room for every request that waits, so this never blocks; a thread that is gone
        // has stopped with the run.
        let gone = self.follow.as_ref().is_none_or(|orders| orders.try_send(follow).is_err());
        if gone {
            self.give_up(1);
        }
    }

    /// Tells that `count` requests that wait will not be sent.
    pub fn give_up(&self, count: usize) {
        self.due.lock().queue.give_up(count);
        self.due.changed.notify_one();
    }

    /// Tells the threads to stop handing out requests.
    pub fn stop(&mut self) {
        self.due.lock().stopped = true;
        self.follow = None;
        self.due.changed.notify_all();
        self.due.room.notify_all();
    }

    /// Stops the threads and waits for them; the receiver of the jobs must be gone or drained.
    pub fn join(mut self) -> thread::Result<()> {
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

fn make_turns(pace: &Pace, due: &Due, orders: &Receiver<Follow>) {
    for Follow { index, intended_ns } in orders {
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
