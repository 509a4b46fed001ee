//! Transformer operations on the CPU.

mod isa;
mod lanes;

pub use isa::{Isa, ParseIsaError};
