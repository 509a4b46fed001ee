//! Bytes that a case must read and operations that it must make, whoever computes it.

use model::ops::wgpu::cost::WeightBytes;
use modelfile::{ModelFile, ModelFileError, ModelSpec};

use super::cases::{CONTEXT, Case, STEPS};

/// Bytes of one stored number of KV.
const KV_BYTES: f64 = 2.0;
/// The matrices of a layer, as files name them; a model has each of them.
const MATRICES: [&str; 7] =
    ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];

/// Matrices of a model, as the file stores them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Weights {
    layer_bytes: f64,
    layer_values: f64,
    head_bytes: f64,
    head_values: f64,
    /// Per value of the embedding.
    embedding_bytes: f64,
}

/// What a case costs at least.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cost {
    /// Bytes read per token that counts.
    pub(super) bytes_per_token: f64,
    /// Multiplications and additions per token that counts.
    pub(super) operations_per_token: f64,
}

impl Weights {
    /// Sums up the matrices of `file`.
    pub(super) fn of(file: &ModelFile) -> Result<Self, ModelFileError> {
        let spec = file.spec();
        let mut weights = Self::default();
        for layer in 0..spec.layers {
            for matrix in MATRICES {
                let (bytes, values) = size(file, &format!("blk.{layer}.{matrix}.weight"))?;
                weights.layer_bytes += bytes;
                weights.layer_values += values;
            }
        }
        let head = if spec.tied_embeddings { "token_embd.weight" } else { "output.weight" };
        (weights.head_bytes, weights.head_values) = size(file, head)?;
        let (bytes, values) = size(file, "token_embd.weight")?;
        weights.embedding_bytes = bytes / values;
        Ok(weights)
    }

    /// Bytes of a weight on average.
    pub(super) fn bytes_per_value(&self) -> WeightBytes {
        WeightBytes {
            layers: self.layer_bytes / self.layer_values,
            head: self.head_bytes / self.head_values,
            embedding: self.embedding_bytes,
        }
    }

    /// The cost of `case` when prompts are computed `chunk` tokens at a time. Weights are read once
    /// per step, KV once per token that looks at it; in a chunk, once for the chunk.
    pub(super) fn cost(&self, spec: &ModelSpec, case: Case, chunk: usize) -> Cost {
        let (layers, width) = (spec.layers as f64, (spec.kv_heads * spec.head_dim) as f64);
        let kv_bytes = 2.0 * layers * width * KV_BYTES;
        // Per token looked at: a product with its key and one with its value, in every query head.
        let look = 4.0 * layers * (spec.heads * spec.head_dim) as f64;
        match case {
            Case::Prefill(tokens) => {
                let steps = tokens.div_ceil(chunk);
                let read: usize = (1..=steps).map(|step| (step * chunk).min(tokens)).sum();
                let tokens = tokens as f64;
                let bytes =
                    steps as f64 * self.layer_bytes + self.head_bytes + read as f64 * kv_bytes;
                let looked = tokens * (tokens + 1.0) / 2.0;
                let operations =
                    2.0 * (tokens * self.layer_values + self.head_values) + looked * look;
                Cost { bytes_per_token: bytes / tokens, operations_per_token: operations / tokens }
            }
            Case::Decode(batch) => {
                // The first step sees the context and itself, the last one STEPS - 1 tokens more.
                let seen = CONTEXT as f64 + (STEPS as f64 + 1.0) / 2.0;
                let weights = (self.layer_bytes + self.head_bytes) / batch as f64;
                Cost {
                    bytes_per_token: weights + seen * kv_bytes,
                    operations_per_token: 2.0 * (self.layer_values + self.head_values)
                        + seen * look,
                }
            }
        }
    }
}

#[cfg(test)]
impl Weights {
    /// Of a made-up file.
    pub(super) fn example() -> Self {
        Self {
            layer_bytes: 600.0,
            layer_values: 1000.0,
            head_bytes: 272.0,
            head_values: 256.0,
            embedding_bytes: 1.0625,
        }
    }
}

/// Bytes and values of one tensor.
fn size(file: &ModelFile, name: &str) -> Result<(f64, f64), ModelFileError> {
    let (dtype, shape) = file.layout(name)?;
    let values = shape.iter().product::<usize>() as f64;
    let bytes = values / dtype.block_values() as f64 * dtype.block_bytes() as f64;
    Ok((bytes, values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::example::spec;

    #[test]
    fn a_decode_step_reads_the_weights_once_and_everyones_kv() {
        let one = Weights::example().cost(&spec(), Case::Decode(1), 512);
        let four = Weights::example().cost(&spec(), Case::Decode(4), 512);
        let kv = 272.5 * (2 * 2 * 8 * 2) as f64;
        assert_eq!(one.bytes_per_token, 872.0 + kv);
        assert_eq!(4.0 * four.bytes_per_token, 872.0 + 4.0 * kv);
        assert_eq!(one.operations_per_token, 2.0 * 1256.0 + 272.5 * (4 * 2 * 16) as f64);
        assert_eq!(one.operations_per_token, four.operations_per_token);
    }

    #[test]
    fn a_prompt_reads_the_weights_once_per_chunk_and_has_one_row_of_logits() {
        let cost = Weights::example().cost(&spec(), Case::Prefill(10), 4);
        let kv = f64::from(4 + 8 + 10) * (2 * 2 * 8 * 2) as f64;
        assert_eq!(10.0 * cost.bytes_per_token, 3.0 * 600.0 + 272.0 + kv);
        let operations = 2.0 * (10.0 * 1000.0 + 256.0) + 55.0 * (4 * 2 * 16) as f64;
        assert!((10.0 * cost.operations_per_token - operations).abs() < 1e-6);
    }
}
