//! A step through the layers of a model, whatever computes its operations.

use crate::error::{LoadError, StepError};
use crate::ops::{Attention, KvShape, ServeOps, Step};
use crate::output::StepOutput;
use crate::weights::Weights;
use modelfile::{ModelFile, ModelSpec};

/// A loaded decoder with its KV, whatever its operations.
pub(crate) trait Runner: Send {
    /// Makes one step, which has rows, and writes the results it wants.
    fn step(&mut self, step: &Step, out: &mut StepOutput) -> Result<(), StepError>;

    /// Copies a page out; `bytes` has the bytes of a block.
    fn export(&mut self, page: u32, bytes: &mut [u8]) -> Result<(), StepError>;

    /// Copies a page in; `bytes` has the bytes of a block.
    fn import(&mut self, page: u32, bytes: &[u8]) -> Result<(), StepError>;
}

/// Weights, KV and activations on one device.
pub(crate) struct Decoder<O: ServeOps> {
    ops: O,
    weights: Weights<O>,
    kv: O::Kv,
    frequencies: Vec<f64>,
    heads: Heads,
    /// The residual stream.
    x: O::Buffer,
    qkv: O::Buffer,
    attended: O::Buffer,
    gated: O::Buffer,
}

struct Heads {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    window: Option<usize>,
}

/// Returns the sizes of a model's KV pool.
pub(crate) fn kv_shape(spec: &ModelSpec, pages: usize) -> KvShape {
    let ModelSpec { layers, kv_heads, head_dim, .. } = *spec;
    KvShape { layers, kv_heads, head_dim, pages }
}

impl<O: ServeOps> Decoder<O> {
    pub(crate) fn load(
        file: &ModelFile,
        mut ops: O,
        pages: usize,
        progress: &mut dyn FnMut(f32),
    ) -> Result<Self, LoadError> {
        let spec = file.spec();
        let ModelSpec { heads, kv_heads, head_dim, window, .. } = *spec;
        let weights = Weights::load(file, &mut ops, progress)?;
        let kv = ops.kv(kv_shape(spec, pages))?;
        let [x, qkv, attended, gated] = std::array::from_fn(|_| ops.buffer());
        Ok(Self {
            weights,
            kv,
            frequencies: frequencies(spec),
            heads: Heads { heads, kv_heads, head_dim, window },
            x,
            qkv,
            attended,
            gated,
            ops,
        })
    }
}

impl<O: ServeOps> Runner for Decoder<O> {
    fn step(&mut self, step: &Step, out: &mut StepOutput) -> Result<(), StepError> {
        let Self { ops, weights, kv, frequencies, x, qkv, attended, gated, .. } = self;
        let Heads { heads, kv_heads, head_dim, window } = self.heads;
        ops.begin(step, frequencies)?;
        ops.embed(step, &weights.embedding, x);
        for (index, layer) in weights.layers.iter().enumerate() {
            let attention = Attention {
                layer: index,
                heads,
                kv_heads,
                head_dim,
                scale: 1.0 / (head_dim as f32).sqrt(),
                frequencies,
                head_norms: layer.head_norms.as_ref(),
                window,
            };
            ops.norm_linear(x, &layer.attention_norm, &layer.qkv, qkv);
            ops.attend(step, qkv, &attention, kv, attended);
            ops.linear_residual(attended, &layer.output, x);
            ops.norm_gate_up(x, &layer.ffn_norm, &layer.gate_up, gated);
            ops.linear_residual(gated, &layer.down, x);
        }
        ops.head(step, x, &weights.norm, weights.head(), out)
    }

    fn export(&mut self, page: u32, bytes: &mut [u8]) -> Result<(), StepError> {
        self.ops.export(&self.kv, page, bytes)
    }

    fn import(&mut self, page: u32, bytes: &[u8]) -> Result<(), StepError> {
        self.ops.import(&mut self.kv, page, bytes)
    }
}

/// A runner whose steps run on the threads of a pool.
#[cfg(feature = "reference")]
pub(crate) struct InPool<R> {
    pub(crate) threads: rayon::ThreadPool,
    pub(crate) runner: R,
}

#[cfg(feature = "reference")]
impl<R: Runner> Runner for InPool<R> {
    fn step(&mut self, step: &Step, out: &mut StepOutput) -> Result<(), StepError> {
        let Self { threads, runner } = self;
        threads.install(|| runner.step(step, out))
    }

    fn export(&mut self, page: u32, bytes: &mut [u8]) -> Result<(), StepError> {
        self.runner.export(page, bytes)
    }

    fn import(&mut self, page: u32, bytes: &[u8]) -> Result<(), StepError> {
        self.runner.import(page, bytes)
    }
}

/// Returns the rotary frequency of each pair of elements, in radians per position.
fn frequencies(spec: &ModelSpec) -> Vec<f64> {
    (0..spec.head_dim / 2)
        .map(|pair| {
            let power = -2.0 * pair as f64 / spec.head_dim as f64;
            let factor = spec.rope_factors.as_ref().map_or(1.0, |factors| f64::from(factors[pair]));
            f64::from(spec.rope_theta).powf(power) / factor
        })
        .collect()
}
