//! Transformer operations on the CPU.

mod activation;
mod attend;
mod attention;
mod cpu;
mod format;
mod gate_up;
mod head;
mod isa;
mod kv;
mod lanes;
mod linear;
mod matrix;
mod memory;
mod pool;
mod precision;
mod probe;
mod rotate;
mod self_check;
mod tile;

pub use activation::{RmsNorm, Vector};
pub use attend::Attention;
pub use attention::Span;
pub use cpu::{Cpu, SetupError};
pub use format::{Format, PANEL_ROWS};
pub use head::{Candidate, HeadOutput, HeadRow};
pub use isa::{Isa, ParseIsaError};
pub use kv::{Kv, KvShape, PAGE_TOKENS};
pub use linear::{Linear, PackError, Part};
pub use matrix::Matrix;
pub use pool::Pool;
pub use precision::{ParsePrecisionError, Precision};
pub use probe::Peak;
pub use rotate::HEAD_DIM_MAX;
