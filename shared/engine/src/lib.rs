//! The worker: step loop, import and export of KV blocks, and the shell that serves jobs over the
//! bus. Both worker services are this crate with another duty.
//!
//! One OS thread owns the model ([`stepper`]); the shell ([`worker`]) owns every request. They
//! communicate through bounded queues and atomics; no lock is taken by both.

pub mod choice;
pub mod compute;
pub mod events;
pub mod handle;
pub mod report;
pub mod simulated;
pub mod stepper;
mod tickets;
pub mod worker;

pub use compute::Compute;
pub use events::{BlockEvent, Events, StepEvent, StepRecord, StepToken};
pub use handle::{EngineHandle, SamplingState};
pub use report::{Report, StepTimes};
pub use stepper::{Engine, Iteration, Loaded, StepLoop};
