//! The step loop's thread: loads the model, turns the loop, waits when there is nothing to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use scheduling::planner::Planner;
use tokio::sync::mpsc;

pub use self::turn::{Ends, StepLoop, Turn};
use crate::compute::{Compute, ComputeError};
use crate::events::{BlockEvent, Events};
use crate::handle::EngineHandle;

mod inbox;
mod outbox;
mod row;
mod turn;
mod watch;

/// How often leases and deadlines are looked at and the report is published.
pub const HOUSEKEEPING: Duration = Duration::from_millis(50);
/// Longest wait without any sequence.
const IDLE_WAIT: Duration = Duration::from_secs(1);
/// Failed steps in a row after which the worker gives up and is started again.
const FAILED_STEPS_MAX: u32 = 3;

/// The ends of a running step loop.
pub struct Engine<I> {
    /// For the shell.
    pub handle: EngineHandle,
    /// Tokens and the like.
    pub steps: mpsc::Receiver<Events>,
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
    let alive = Arc::new(AtomicBool::new(true));
    let living = alive.clone();
    let thread = std::thread::Builder::new()
        .name("engine".to_owned())
        .spawn(move || {
            match load() {
                Err(error) => drop(ready.send(Err(error))),
                Ok(Loaded { compute, planner, blocks_max, info }) => {
                    let (turning, ends) = StepLoop::new(compute, planner, blocks_max);
                    if ready.send(Ok((ends, info))).is_ok() {
                        run(turning);
                    }
                }
            }
            living.store(false, Ordering::Release);
        })
        .map_err(|error| ComputeError(format!("start the engine thread: {error}")))?;
    let (ends, info) = loaded
        .recv()
        .map_err(|_| ComputeError("the engine thread ended while loading".to_owned()))??;
    let (mut handle, steps, blocks) = ends;
    handle.alive = alive;
    Ok(Engine { handle, steps, blocks, info, thread })
}

fn run<C: Compute>(mut turning: StepLoop<C>) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else {
        tracing::error!("no timer for the engine thread");
        return;
    };
    loop {
        match turning.turn() {
            Turn::Stepped => {}
            Turn::Idle => runtime.block_on(turning.wait(Instant::now())),
            Turn::Over => return,
        }
        if FAILED_STEPS_MAX <= turning.failed_steps() {
            tracing::error!(steps = turning.failed_steps(), "steps keep failing: giving up");
            return;
        }
    }
}

/// Milliseconds since the Unix epoch.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
