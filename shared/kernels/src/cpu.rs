//! The operations of a decoder step: the safe face of this crate.

mod attend;
mod head;
mod probe;
mod self_check;

pub use attend::Attention;
pub use head::{Candidate, HeadOutput, HeadRow};
pub use probe::Peak;

use crate::activation::{Activations, Block, PrepareRow, Quant, RmsNorm, Targets};
use crate::format::{BLOCK, Format};
use crate::gate_up::GateUp;
use crate::isa::{Available, Isa};
use crate::linear::{Linear, Product, Rows, Sink};
use crate::matrix::Matrix;
use crate::memory::Shared;
use crate::pool::Pool;
use crate::precision::Precision;
use attend::AttentionMemory;
use head::TopMemory;

/// Rows that a thread prepares at a time.
const PREPARE_ROWS: usize = 4;

/// The reason why the kernels could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The machine lacks the instructions.
    #[error("this machine has no {0} instructions")]
    Isa(Isa),
    /// The machine computes other values with these instructions than without them.
    #[error(
        "the {isa} kernels compute wrong products of {format:?} on this machine; \
         choose other instructions, such as isa=portable, and report this"
    )]
    Wrong {
        /// The instruction set.
        isa: Isa,
        /// Storage of the weights.
        format: Format,
    },
    /// A thread was refused.
    #[error("start {threads} threads")]
    Threads {
        /// Number of threads.
        threads: usize,
        /// The system's error.
        source: std::io::Error,
    },
}

/// A set of threads with an instruction set, and the memory that its operations share.
pub struct Cpu {
    isa: Available,
    pool: Pool,
    activations: Activations,
    attention: AttentionMemory,
    top: TopMemory,
}

impl Cpu {
    /// Starts `threads` threads; linear layers round their inputs to `precision`. Checks first that
    /// the instructions compute on this machine what portable code computes.
    pub fn new(threads: usize, isa: Isa, precision: Precision) -> Result<Self, SetupError> {
        let isa = Available::new(isa).ok_or(SetupError::Isa(isa))?;
        self_check::check(isa, precision)?;
        Self::start(threads, isa, precision)
    }

    fn start(threads: usize, isa: Available, precision: Precision) -> Result<Self, SetupError> {
        let pool = Pool::new(threads).map_err(|source| SetupError::Threads { threads, source })?;
        Ok(Self {
            isa,
            pool,
            activations: Activations::new(precision),
            attention: AttentionMemory::default(),
            top: TopMemory::default(),
        })
    }

    /// Returns the instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa.isa()
    }

    /// Returns the number of threads.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// `out = table[tokens]`.
    ///
    /// # Panics
    /// Panics if the table has no such token.
    pub fn embed(&mut self, tokens: &[u32], table: &Linear, out: &mut Matrix) {
        assert!(
            tokens.iter().all(|&token| (token as usize) < table.outputs()),
            "tokens are in the table"
        );
        out.reshape(tokens.len(), table.inputs());
        let (stride, width) = (out.stride(), table.inputs());
        let rows = Shared::new(out.all_mut());
        self.pool.run(tokens.len(), &|row, _| {
            // SAFETY: every row is written by one chunk.
            let out = unsafe { rows.part(row * stride, width) };
            table.row(tokens[row] as usize, out);
        });
    }

    /// `out = weight · norm(x) + bias`.
    ///
    /// # Panics
    /// Panics if the widths do not fit.
    pub fn norm_linear(
        &mut self,
        x: &Matrix,
        norm: Option<RmsNorm<'_>>,
        weight: &Linear,
        out: &mut Matrix,
    ) {
        self.prepare(x, None, norm, weight);
        out.reshape(x.rows(), weight.outputs());
        let stride = out.stride();
        let sink = Rows { out: Shared::new(out.all_mut()), stride, add: false };
        self.multiply(weight, x.rows(), &sink);
    }

    /// `residual += weight · x + bias`.
    ///
    /// # Panics
    /// Panics if the shapes do not fit.
    pub fn linear_residual(&mut self, x: &Matrix, weight: &Linear, residual: &mut Matrix) {
        assert_eq!(residual.width(), weight.outputs(), "the residual is as wide as the outputs");
        assert_eq!(residual.rows(), x.rows(), "the residual has a row for each input");
        self.prepare(x, None, None, weight);
        let stride = residual.stride();
        let sink = Rows { out: Shared::new(residual.all_mut()), stride, add: true };
        self.multiply(weight, x.rows(), &sink);
    }

    /// `out = silu(gate · norm(x)) ∘ (up · norm(x))`, where `weight` is gate and up.
    ///
    /// # Panics
    /// Panics if the widths do not fit.
    pub fn norm_gate_up(
        &mut self,
        x: &Matrix,
        norm: Option<RmsNorm<'_>>,
        weight: &Linear,
        out: &mut Matrix,
    ) {
        let segments = weight.gate_up().expect("gate and up are two matrices of one size");
        self.prepare(x, None, norm, weight);
        out.reshape(x.rows(), weight.outputs() / 2);
        let stride = out.stride();
        let product = GateUp {
            segments,
            inputs: weight.inputs(),
            activations: self.activations.view(),
            rows: x.rows(),
            threads: self.pool.threads(),
            out: Shared::new(out.all_mut()),
            stride,
        };
        let isa = self.isa;
        self.pool.run(product.chunks(), &|chunk, _| isa.run(product.chunk(chunk)));
    }

    /// Norms and quantizes rows of `x`, all of them or those selected.
    fn prepare(
        &mut self,
        x: &Matrix,
        selected: Option<&[usize]>,
        norm: Option<RmsNorm<'_>>,
        weight: &Linear,
    ) {
        assert_eq!(x.width(), weight.inputs(), "the input is as wide as the weight");
        let rows = selected.map_or(x.rows(), <[usize]>::len);
        let width = x.width();
        let (quantized, kept) = (weight.is_quantized(), weight.is_float());
        let block_rows = if quantized { rows } else { 0 };
        let float_rows = if kept { rows } else { self.pool.threads() };
        self.activations.reshape(width, block_rows, float_rows);
        let blocks_each = if quantized { width / BLOCK } else { 0 };
        let (blocks, floats) = self.activations.targets();
        let source = Source { x, selected, norm, rows, keeps_floats: kept, blocks_each };
        match blocks {
            Targets::Int8(blocks) => source.prepare(&mut self.pool, self.isa, &blocks, &floats),
            Targets::Int16(blocks) => source.prepare(&mut self.pool, self.isa, &blocks, &floats),
        }
    }

    /// Multiplies the prepared rows.
    fn multiply<S: Sink>(&mut self, weight: &Linear, rows: usize, sink: &S) {
        let product = Product {
            weight,
            activations: self.activations.view(),
            rows,
            threads: self.pool.threads(),
            sink,
        };
        let isa = self.isa;
        self.pool.run(product.chunks(), &|chunk, thread| isa.run(product.chunk(chunk, thread)));
    }
}

/// Rows to be prepared for a linear layer.
struct Source<'a> {
    x: &'a Matrix,
    /// The rows that are wanted, unless it is all of them.
    selected: Option<&'a [usize]>,
    norm: Option<RmsNorm<'a>>,
    rows: usize,
    /// True when some weight reads rows in f32.
    keeps_floats: bool,
    blocks_each: usize,
}

impl Source<'_> {
    fn prepare<Q: Quant>(
        &self,
        pool: &mut Pool,
        isa: Available,
        blocks: &Shared<'_, Block<Q>>,
        floats: &Shared<'_, f32>,
    ) {
        let (width, stride) = (self.x.width(), self.x.stride());
        let norm = self.norm;
        pool.run(self.rows.div_ceil(PREPARE_ROWS), &|chunk, thread| {
            let first = chunk * PREPARE_ROWS;
            for row in first..(first + PREPARE_ROWS).min(self.rows) {
                let x = self.selected.map_or(row, |selected| selected[row]);
                let float_row = if self.keeps_floats { row } else { thread };
                // SAFETY: every row is written by one chunk, and a thread runs one at a time.
                let (floats, blocks) = unsafe {
                    (
                        floats.part(float_row * stride, stride),
                        blocks.part(row * self.blocks_each, self.blocks_each),
                    )
                };
                isa.run(PrepareRow { x: self.x.padded_row(x), width, norm, floats, blocks });
            }
        });
    }
}
