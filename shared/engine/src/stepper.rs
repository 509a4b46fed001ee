//! The step loop's thread: loads the model, iterates, waits when there is nothing to compute.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use scheduling::planner::Planner;
use tokio::sync::mpsc;

pub use self::step_loop::{Ends, Iteration, StepLoop};
use crate::compute::{Compute, ComputeError};
use crate::events::{BlockEvent, Events};
use crate::handle::EngineHandle;

mod inbox;
mod outbox;
mod row;
mod sampler;
mod step_loop;

/// Period of housekeeping: leases and deadlines are checked, the report is published.
pub const HOUSEKEEPING: Duration = Duration::from_millis(50);
/// Longest wait without any sequence.
const IDLE_WAIT: Duration = Duration::from_secs(1);
/// Failed steps in a row after which the engine ends, so that the worker is restarted.
const FAILED_STEPS_MAX: u32 = 3;

/// The ends of a running step loop.
pub struct Engine<I> {
    /// The handle for the shell.
    pub handle: EngineHandle,
    /// The events of steps.
    pub steps: mpsc::Receiver<Events>,
    /// The blocks to store.
    pub blocks: mpsc::Receiver<BlockEvent>,
    /// Facts about the loaded model.
    pub info: I,
    /// The thread, which ends when every handle is gone, or after repeated failures.
    pub thread: std::thread::JoinHandle<()>,
}

/// The result of loading a model.
pub struct Loaded<C, I> {
    /// The model.
    pub compute: C,
    /// An empty planner that fits it.
    pub planner: Planner,
    /// Blocks that may wait for the store.
    pub blocks_max: usize,
    /// Facts about the loaded model.
    pub info: I,
}

/// Starts the loop. `load` runs on the loop's own thread, since a model stays on the thread that
/// created it. Returns once the model is loaded, so call it from a thread that may block.
///
/// # Errors
/// The error of `load`, or the system's refusal to start a thread.
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
                    let (step_loop, ends) = StepLoop::new(compute, planner, blocks_max);
                    if ready.send(Ok((ends, info))).is_ok() {
                        run(step_loop);
                    }
                }
            }
            living.store(false, Ordering::Release);
        })
        .map_err(|error| ComputeError(format!("start the engine thread: {error}")))?;
    let (ends, info) = loaded
        .recv()
        .map_err(|_| ComputeError("the engine thread ended while loading".to_owned()))??;
    let Ends { mut handle, steps, blocks } = ends;
    handle.alive = alive;
    Ok(Engine { handle, steps, blocks, info, thread })
}

fn run<C: Compute>(mut step_loop: StepLoop<C>) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else {
        tracing::error!("failed to create a timer for the engine thread");
        return;
    };
    loop {
        match step_loop.iterate() {
            Iteration::Stepped => {}
            Iteration::Idle => runtime.block_on(step_loop.wait(Instant::now())),
            Iteration::Closed => return,
        }
        if step_loop.failed_steps() >= FAILED_STEPS_MAX {
            tracing::error!(
                steps = step_loop.failed_steps(),
                "engine ends after repeated failures of steps"
            );
            return;
        }
    }
}
