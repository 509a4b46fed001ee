//! Transformer operations on the CPU.

mod activation;
mod attention;
mod cpu;
mod format;
mod gate_up;
mod isa;
mod kv;
mod lanes;
mod linear;
mod matrix;
mod memory;
mod pool;
mod precision;
mod rotate;
mod tile;

pub use activation::{RmsNorm, Vector};
pub use attention::Span;
pub use cpu::{Attention, Candidate, Cpu, HeadOutput, HeadRow, Peak, SetupError};
pub use format::{Format, PANEL_ROWS};
pub use isa::{Isa, ParseIsaError};
pub use kv::{Kv, KvShape, PAGE_TOKENS};
pub use linear::{Linear, PackError, Part};
pub use matrix::Matrix;
pub use pool::Pool;
pub use precision::{ParsePrecisionError, Precision};
pub use rotate::HEAD_DIM_MAX;
