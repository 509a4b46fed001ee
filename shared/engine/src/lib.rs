//! The worker: step loop, import and export of KV blocks, and the shell that serves jobs over the
//! bus. Both worker services are this crate with another assignment.
//!
//! One OS thread owns the model ([`stepper`]); the shell ([`worker`]) owns every conversation.
//! They speak through bounded queues and atomics; no lock is taken by both.

pub mod compute;
pub mod events;
pub mod handle;
pub mod report;
pub mod simulated;
pub mod stepper;
mod tickets;
pub mod worker;

pub use compute::Compute;
pub use events::{BlockEvent, Events, StepEvent, StepRecord};
pub use handle::{EngineHandle, Extras};
pub use report::{Report, StepTimes};
pub use stepper::{Engine, Loaded, StepLoop, Turn};
