//! The worker: step loop, import and export of KV blocks, and the shell that serves jobs over the
//! bus. Both worker services are this crate with another assignment.
//!
//! One OS thread owns the model ([`stepper`]); the shell ([`worker`]) owns every conversation.
//! They share the planner under a lock that is never held while the model computes.

pub mod compute;
pub mod events;
pub mod handle;
pub mod simulated;
pub mod stepper;
pub mod worker;

pub use compute::Compute;
pub use events::{BlockEvent, StepEvent};
pub use handle::{EngineHandle, Extras};
pub use stepper::{Engine, Loaded};
