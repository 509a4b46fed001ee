//! The weights of a decoder, read from a model file tensor by tensor and packed as a device wants.

use crate::error::LoadError;
use crate::ops::{Norm, ServeOps};
use modelfile::{ModelFile, ModelSpec, RopePairs, TensorData};

/// Weights of a decoder whose layers are attention and a gated feed-forward, as in Llama.
pub(crate) struct Weights<O: ServeOps> {
    pub(crate) embedding: O::Linear,
    pub(crate) layers: Vec<Layer<O>>,
    pub(crate) norm: Norm<O::Vector>,
    /// Nothing where the head is the embedding.
    head: Option<O::Linear>,
}

pub(crate) struct Layer<O: ServeOps> {
    pub(crate) attention_norm: Norm<O::Vector>,
    /// Queries, keys and values, one below the other.
    pub(crate) qkv: O::Linear,
    /// Norms of each query head and each key head.
    pub(crate) head_norms: Option<[Norm<O::Vector>; 2]>,
    pub(crate) output: O::Linear,
    pub(crate) ffn_norm: Norm<O::Vector>,
    /// Gate and up projection, one below the other.
    pub(crate) gate_up: O::Linear,
    pub(crate) down: O::Linear,
}

impl<O: ServeOps> Weights<O> {
    /// Reads and packs; `progress` receives the share that is done.
    pub(crate) fn load(
        file: &ModelFile,
        ops: &mut O,
        progress: &mut dyn FnMut(f32),
    ) -> Result<Self, LoadError> {
        let mut loader = Loader { file, ops, parts: Vec::new() };
        let spec = file.spec();
        let steps = (spec.layers + 2) as f32;
        let embedding = loader.linear(&["token_embd"])?;
        progress(1.0 / steps);
        let mut layers = Vec::with_capacity(spec.layers);
        for index in 0..spec.layers {
            layers.push(Layer::load(&mut loader, index)?);
            progress((index + 2) as f32 / steps);
        }
        let head = if spec.tied_embeddings { None } else { Some(loader.linear(&["output"])?) };
        let norm = loader.norm("output_norm.weight")?;
        progress(1.0);
        Ok(Self { embedding, layers, norm, head })
    }

    /// Gives the logits.
    pub(crate) fn head(&self) -> &O::Linear {
        self.head.as_ref().unwrap_or(&self.embedding)
    }
}

impl<O: ServeOps> Layer<O> {
    fn load(loader: &mut Loader<'_, O>, index: usize) -> Result<Self, LoadError> {
        let name = |part: &str| format!("blk.{index}.{part}");
        let linear = |loader: &mut Loader<'_, O>, parts: &[&str]| {
            let names: Vec<String> = parts.iter().map(|part| name(part)).collect();
            loader.linear(&names)
        };
        let head_norms = if loader.spec().head_norms {
            let query = loader.norm(&name("attn_q_norm.weight"))?;
            Some([query, loader.norm(&name("attn_k_norm.weight"))?])
        } else {
            None
        };
        Ok(Self {
            attention_norm: loader.norm(&name("attn_norm.weight"))?,
            qkv: linear(loader, &["attn_q", "attn_k", "attn_v"])?,
            head_norms,
            output: linear(loader, &["attn_output"])?,
            ffn_norm: loader.norm(&name("ffn_norm.weight"))?,
            gate_up: linear(loader, &["ffn_gate", "ffn_up"])?,
            down: linear(loader, &["ffn_down"])?,
        })
    }
}

/// Reads for one device, in memory that is used again.
struct Loader<'a, O: ServeOps> {
    file: &'a ModelFile,
    ops: &'a mut O,
    parts: Vec<TensorData>,
}

impl<O: ServeOps> Loader<'_, O> {
    fn spec(&self) -> &ModelSpec {
        self.file.spec()
    }

    fn norm(&mut self, name: &str) -> Result<Norm<O::Vector>, LoadError> {
        let mut tensor = self.file.tensor(name)?;
        self.order_pairs(name, &mut tensor);
        let weight = self.ops.vector(&tensor.to_f32());
        Ok(Norm { weight, eps: self.spec().rms_eps })
    }

    /// Matrices that read the same input, with their biases where the model has them.
    fn linear<N: AsRef<str>>(&mut self, names: &[N]) -> Result<O::Linear, LoadError> {
        let mut parts = std::mem::take(&mut self.parts);
        parts.resize_with(parts.len().max(names.len()), TensorData::empty);
        let mut bias = Vec::new();
        for (name, tensor) in names.iter().map(AsRef::as_ref).zip(&mut parts) {
            self.file.tensor_into(&format!("{name}.weight"), tensor)?;
            self.order_pairs(name, tensor);
            if self.spec().qkv_bias && is_projection(name) {
                let mut tensor = self.file.tensor(&format!("{name}.bias"))?;
                self.order_pairs(name, &mut tensor);
                bias.extend(tensor.to_f32());
            }
        }
        let bias = if bias.is_empty() { None } else { Some(&bias[..]) };
        let packed = self.ops.linear(&parts[..names.len()], bias);
        self.parts = parts;
        packed
    }

    /// Brings what is rotated into the order of pairs `i, i + head_dim / 2`.
    fn order_pairs(&self, name: &str, tensor: &mut TensorData) {
        let spec = self.spec();
        if spec.rope_pairs == RopePairs::Interleaved && is_rotated(name) {
            let rows = tensor.shape[0];
            let row_bytes = tensor.bytes.len() / rows;
            tensor.bytes = halve_pairs(&tensor.bytes, row_bytes, spec.head_dim);
        }
    }
}

fn is_projection(name: &str) -> bool {
    ["attn_q", "attn_k", "attn_v"].iter().any(|part| name.ends_with(part))
}

fn is_rotated(name: &str) -> bool {
    ["attn_q", "attn_k", "attn_q_norm.weight", "attn_k_norm.weight"]
        .iter()
        .any(|part| name.ends_with(part))
}

/// Reorders each head's rows from pairs `2i, 2i + 1` to pairs `i, i + head_dim / 2`. Rows move whole,
/// as the file holds them.
fn halve_pairs(rows: &[u8], row_bytes: usize, head_dim: usize) -> Vec<u8> {
    let half = head_dim / 2;
    let mut out = Vec::with_capacity(rows.len());
    for head in rows.chunks_exact(head_dim * row_bytes) {
        for element in 0..head_dim {
            let source = 2 * (element % half) + element / half;
            out.extend_from_slice(&head[source * row_bytes..][..row_bytes]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaved_pairs_become_halves() {
        let rows: Vec<u8> = (0..16).collect();
        let wanted = [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15];
        assert_eq!(halve_pairs(&rows, 2, 4), wanted);
    }
}
