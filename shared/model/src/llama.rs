//! The Llama family: RMS norm, rotary attention with grouped keys, SwiGLU.

use crate::attention::AttentionPlan;
use crate::error::LoadError;
use crate::forward::Decoder;
use crate::kv::KvPool;
use crate::linear::Linear;
use crate::load::Loader;
use burn::tensor::Tensor;
use burn::tensor::activation::silu;

/// Weights of a Llama model.
pub(crate) struct Llama {
    layers: Vec<Layer>,
    norm: RmsNorm,
    head: Linear,
}

struct Layer {
    attention_norm: RmsNorm,
    /// Queries, keys and values, side by side.
    qkv: Linear,
    output: Linear,
    ffn_norm: RmsNorm,
    /// Gate and up projection, side by side.
    gate_up: Linear,
    down: Linear,
}

impl Llama {
    pub(crate) fn load(loader: &Loader, progress: &mut dyn FnMut(f32)) -> Result<Self, LoadError> {
        let spec = loader.spec().clone();
        let mut layers = Vec::with_capacity(spec.layers);
        for index in 0..spec.layers {
            layers.push(Layer::load(loader, index, spec.rms_eps)?);
            progress((index + 1) as f32 / (spec.layers + 1) as f32);
        }
        let head = if spec.tied_embeddings { "token_embd.weight" } else { "output.weight" };
        let model = Self {
            layers,
            norm: RmsNorm::load(loader, "output_norm.weight", spec.rms_eps)?,
            head: loader.linear(&[head.to_owned()])?,
        };
        progress(1.0);
        Ok(model)
    }
}

impl Decoder for Llama {
    fn hidden(&self, mut x: Tensor<2>, plan: &AttentionPlan, kv: &mut KvPool) -> Tensor<2> {
        for (index, layer) in self.layers.iter().enumerate() {
            let qkv = layer.qkv.forward(layer.attention_norm.forward(x.clone()));
            let attended = plan.attend(qkv, index, kv);
            x = x.add(layer.output.forward(attended));
            x = layer.feed_forward(x);
        }
        x
    }

    fn logits(&self, x: Tensor<2>) -> Tensor<2> {
        self.head.forward(self.norm.forward(x))
    }
}

impl Layer {
    fn load(loader: &Loader, index: usize, eps: f32) -> Result<Self, LoadError> {
        let name = |part: &str| format!("blk.{index}.{part}.weight");
        let qkv = ["attn_q", "attn_k", "attn_v"].map(name);
        Ok(Self {
            attention_norm: RmsNorm::load(loader, &name("attn_norm"), eps)?,
            qkv: loader.linear(&qkv)?,
            output: loader.linear(&[name("attn_output")])?,
            ffn_norm: RmsNorm::load(loader, &name("ffn_norm"), eps)?,
            gate_up: loader.linear(&["ffn_gate", "ffn_up"].map(name))?,
            down: loader.linear(&[name("ffn_down")])?,
        })
    }

    /// # Shapes
    /// - `x`: `[rows, hidden]`
    /// - returns `[rows, hidden]`
    fn feed_forward(&self, x: Tensor<2>) -> Tensor<2> {
        let both = self.gate_up.forward(self.ffn_norm.forward(x.clone()));
        let [rows, width] = both.dims();
        let gate = both.clone().slice([0..rows, 0..width / 2]);
        let up = both.slice([0..rows, width / 2..width]);
        x.add(self.down.forward(silu(gate).mul(up)))
    }
}

/// Division by the root of the mean square, and a weight per column.
struct RmsNorm {
    /// `[1, width]`
    weight: Tensor<2>,
    eps: f32,
}

impl RmsNorm {
    fn load(loader: &Loader, name: &str, eps: f32) -> Result<Self, LoadError> {
        Ok(Self { weight: loader.vector(name)?, eps })
    }

    /// # Shapes
    /// - `x`: `[rows, width]`
    /// - returns `[rows, width]`
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let mean_square = x.clone().mul(x.clone()).mean_dim(1);
        x.div(mean_square.add_scalar(self.eps).sqrt()).mul(self.weight.clone())
    }
}
