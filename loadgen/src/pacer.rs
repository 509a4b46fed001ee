//! Two threads ahead of the sends: one makes bodies, one waits for each intended time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;

use crate::body::BodyTemplate;
use crate::clock::Clock;
use crate::plan::Plan;
use crate::prompt::PromptMaker;

/// How many bodies are made ahead of their time.
const BODIES_AHEAD: usize = 64;
/// How many due requests may wait for the runtime to take them.
pub const DUE_QUEUE: usize = 4096;
/// The longest sleep, so that a stop is noticed even if its wake-up is lost.
const LONGEST_SLEEP_NS: i64 = 100_000_000;

/// A request whose time has come.
#[derive(Debug)]
pub struct Job {
    /// Its place in the plan.
    pub index: usize,
    /// When it should be sent.
    pub intended_ns: i64,
    /// Its body, or why there is none.
    pub body: Result<Bytes, String>,
}

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

/// The running threads. They end by themselves when the plan is through or the receiver is gone.
pub struct Pacer {
    stop: Arc<AtomicBool>,
    maker: JoinHandle<()>,
    pacer: JoinHandle<()>,
}

impl Pacer {
    /// Starts the threads; jobs come out of `due` at their intended times.
    pub fn start(pace: Pace, due: tokio::sync::mpsc::Sender<Job>) -> Result<Self, std::io::Error> {
        let stop = Arc::new(AtomicBool::new(false));
        let (made, ready) = mpsc::sync_channel(BODIES_AHEAD);
        let clock = pace.clock;
        let maker = thread::Builder::new()
            .name("loadgen-bodies".to_owned())
            .spawn(move || make_bodies(&pace, &made))?;
        let stopped = stop.clone();
        let pacer = thread::Builder::new()
            .name("loadgen-pacer".to_owned())
            .spawn(move || wait_and_hand_out(&ready, clock, &stopped, &due))?;
        Ok(Self { stop, maker, pacer })
    }

    /// Tells the threads to stop handing out requests.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.pacer.thread().unpark();
    }

    /// Stops the threads and waits for them; the receiver of the jobs must be gone or drained.
    pub fn join(self) -> thread::Result<()> {
        self.stop();
        self.pacer.join()?;
        self.maker.join()
    }
}

fn make_bodies(pace: &Pace, made: &mpsc::SyncSender<Job>) {
    for (index, request) in pace.plan.requests.iter().enumerate() {
        let prompt = pace.prompts.prompt(request);
        let body = prompt.map(|prompt| pace.template.body(prompt, request.output_tokens));
        let body = body.map_err(|e| e.to_string());
        if made.send(Job { index, intended_ns: request.intended_ns, body }).is_err() {
            return;
        }
    }
}

fn wait_and_hand_out(
    ready: &mpsc::Receiver<Job>,
    clock: Clock,
    stop: &AtomicBool,
    due: &tokio::sync::mpsc::Sender<Job>,
) {
    for job in ready {
        loop {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let wait_ns = job.intended_ns - clock.now_ns();
            if wait_ns <= 0 {
                break;
            }
            thread::park_timeout(Duration::from_nanos(wait_ns.min(LONGEST_SLEEP_NS) as u64));
        }
        if due.blocking_send(job).is_err() {
            return;
        }
    }
}
