//! The operations of a step, fused as serving wants them, behind one trait.
//!
//! Three implementations: [`mod@reference`] (stock Burn operations in f32, any device), [`cpu`] (the
//! `kernels` crate) and [`wgpu`] (CubeCL kernels). One suite of tests (`tests/ops`) runs all of them.
//!
//! **Invariant**: what an operation writes for a row depends on that row, and on the KV of its
//! sequence, alone: on nothing else in the step, nor on how a prompt was cut into chunks.

pub mod cpu;
#[cfg(feature = "reference")]
pub mod reference;
#[cfg(feature = "wgpu")]
pub mod wgpu;

pub use kernels::{HeadRow, KvShape};

use std::ops::Range;

use modelfile::TensorData;
use protocol::BLOCK_TOKENS;

use crate::error::{LoadError, StepError};
use crate::output::StepOutput;

/// The rows of one step. Rows of a sequence follow each other, in the order of its tokens.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// Token of each row.
    pub tokens: Vec<u32>,
    /// Position of each row in its sequence.
    pub positions: Vec<u32>,
    /// The sequences, in the order of their rows.
    pub spans: Vec<Span>,
    /// Block tables, one after the other: see [`Span::pages`].
    pub pages: Vec<u32>,
    /// Results that are wanted of the head, rows ascending.
    pub wanted: Vec<HeadRow>,
}

/// One sequence's rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its rows.
    pub rows: Range<usize>,
    /// Position of the first.
    pub position: usize,
    /// Its block table within [`Step::pages`]: token `t` lies in page `t / 16` of it. It ends with
    /// the page of the last row.
    pub pages: Range<usize>,
}

impl Step {
    /// Returns the number of rows in the step.
    pub fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// Returns the page, and the slot in it, of the KV of `row`, a row of `span`.
    pub fn slot(&self, span: &Span, row: usize) -> (u32, usize) {
        let token = span.position + row - span.rows.start;
        let page = self.pages[span.pages.start + token / BLOCK_TOKENS];
        (page, token % BLOCK_TOKENS)
    }
}

/// Division by the root of the mean square, then a weight per element.
#[derive(Clone, Copy, Debug)]
pub struct Norm<V> {
    /// The weights, as many as there are elements.
    pub weight: V,
    /// Added to the mean square.
    pub eps: f32,
}

/// The parameters of one layer's attention.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a, V> {
    /// Layer of the KV.
    pub layer: usize,
    /// Query heads; each run of `heads / kv_heads` of them shares a key head.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// Rotary frequency of each pair of elements `i`, `i + head_dim / 2`, in radians per position.
    pub frequencies: &'a [f64],
    /// Norms of each query head and of each key head, before rotation.
    pub head_norms: Option<&'a [Norm<V>; 2]>,
    /// A query sees only this many latest tokens, itself included.
    pub window: Option<usize>,
}

/// The operations; buffers hold `[rows, width]` in f32.
pub trait ServeOps: Send + 'static {
    /// Weights of a linear layer or of an embedding, as the device wants them.
    type Linear: Send;
    /// Norm weights.
    type Vector: Send;
    /// Activations.
    type Buffer: Send;
    /// The KV pages of all layers.
    type Kv: Send;

    /// Packs matrices `[outputs, inputs]` that read the same input, one below the other, with a
    /// bias over all outputs where the layer has one.
    fn linear(
        &mut self,
        parts: &[TensorData],
        bias: Option<&[f32]>,
    ) -> Result<Self::Linear, LoadError>;

    /// Puts a vector onto the device.
    fn vector(&mut self, values: &[f32]) -> Self::Vector;

    /// Returns an empty buffer; operations that write it give it their rows and width.
    fn buffer(&mut self) -> Self::Buffer;

    /// Allocates KV pages, all zero.
    fn kv(&mut self, shape: KvShape) -> Result<Self::Kv, LoadError>;

    /// Makes the rows of a step known; all operations up to the next `begin` work on them.
    /// `frequencies` as in [`Attention`].
    fn begin(&mut self, step: &Step, frequencies: &[f64]) -> Result<(), StepError>;

    /// Computes `x = table[tokens]`.
    fn embed(&mut self, step: &Step, table: &Self::Linear, x: &mut Self::Buffer);

    /// Computes `out = weight · norm(x) + bias`.
    fn norm_linear(
        &mut self,
        x: &Self::Buffer,
        norm: &Norm<Self::Vector>,
        weight: &Self::Linear,
        out: &mut Self::Buffer,
    );

    /// Takes queries, keys and values side by side, `[rows, (heads + 2 kv_heads) head_dim]`; norms
    /// and rotates queries and keys, stores keys and values as f16, and attends over what is stored:
    /// `out` is `[rows, heads head_dim]`.
    fn attend(
        &mut self,
        step: &Step,
        qkv: &Self::Buffer,
        attention: &Attention<'_, Self::Vector>,
        kv: &mut Self::Kv,
        out: &mut Self::Buffer,
    );

    /// Adds `residual += weight · x + bias`.
    fn linear_residual(
        &mut self,
        x: &Self::Buffer,
        weight: &Self::Linear,
        residual: &mut Self::Buffer,
    );

    /// Computes `out = silu(gate · norm(x)) ∘ (up · norm(x))`; `weight` was packed from `[gate, up]`.
    fn norm_gate_up(
        &mut self,
        x: &Self::Buffer,
        norm: &Norm<Self::Vector>,
        weight: &Self::Linear,
        out: &mut Self::Buffer,
    );

    /// Computes `weight · norm(x)` of the rows in `step.wanted`. `out` gets, in that order, the most
    /// likely tokens (falling, ties by id) or the whole row. Ends the step: everything that was
    /// queued on the device is done when this returns.
    fn head(
        &mut self,
        step: &Step,
        x: &Self::Buffer,
        norm: &Norm<Self::Vector>,
        weight: &Self::Linear,
        out: &mut StepOutput,
    ) -> Result<(), StepError>;

    /// Copies a page of all layers out, in the layout of [`KvShape`]. `out` has `block_bytes`.
    fn export(&mut self, kv: &Self::Kv, page: u32, out: &mut [u8]) -> Result<(), StepError>;

    /// Copies a page of all layers in.
    fn import(&mut self, kv: &mut Self::Kv, page: u32, bytes: &[u8]) -> Result<(), StepError>;

    /// Fills a buffer from the host: for tests and benches.
    fn write(&mut self, buffer: &mut Self::Buffer, width: usize, values: &[f32]);

    /// Copies a buffer to the host: for tests and benches.
    fn read(&mut self, buffer: &Self::Buffer) -> Vec<f32>;
}
