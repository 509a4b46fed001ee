//! Runs language models: weights on a device, paged KV beside them, one mixed batch per step.
//!
//! A [`Model`] is owned by one thread. It decides nothing: which sequences share a step and which
//! pages they use is the caller's choice, token choice from logits is [`sampling`].
//!
//! **Invariant**: KV is stored as f16 in pages of [`protocol::BLOCK_TOKENS`] tokens on every device,
//! and a page leaves and enters bit by bit, so that a sequence goes on anywhere as it would have gone
//! on here.

mod activations;
mod batch;
mod decoder;
mod device;
mod error;
mod forward;
mod isa;
pub mod ops;
mod output;
pub mod sampling;
mod weights;

pub use activations::{
    ActivationsChoice, INT8_PARAMETERS_MIN, ParseActivationsError, ResolvedActivations,
};
pub use batch::BatchSequence;
pub use device::{DeviceChoice, ParseDeviceError, ResolvedDevice, unused_graphics};
pub use error::{LoadError, StepError};
pub use forward::{Model, ModelLimits};
pub use isa::{IsaChoice, ParseIsaChoiceError};
pub use kernels::{Isa, Precision};
pub use output::{Candidate, RowOutput, StepOutput, Wanted};
