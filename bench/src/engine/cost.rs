//! Bytes that a case must read and operations that it must make, on any implementation.

#[cfg(feature = "wgpu")]
use model::ops::wgpu::cost::WeightBytes;
use modelfile::{ModelFile, ModelFileError, ModelSpec};

use super::cases::{CONTEXT, Case, STEPS};

/// Bytes of one number of KV.
const KV_BYTES: f64 = 2.0;
/// The matrices of a layer, as files name them. Every model has all of them.
const MATRICES: [&str; 7] =
    ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];

/// The matrices of a model, as the file stores them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Weights {
    pub(super) layer_bytes: f64,
    pub(super) layer_values: f64,
    pub(super) head_bytes: f64,
    pub(super) head_values: f64,
    /// Bytes per value of the embedding.
    pub(super) embedding_bytes: f64,
}

/// The least that a case costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cost {
    /// Bytes read per counted token.
    pub(super) bytes_per_token: f64,
    /// Multiplications and additions per counted token.
    pub(super) operations_per_token: f64,
}

impl Weights {
    /// Sums the matrices of `file`.
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

    /// Returns the mean bytes of a weight.
    #[cfg(feature = "wgpu")]
    pub(super) fn bytes_per_value(&self) -> WeightBytes {
        WeightBytes {
            layers: self.layer_bytes / self.layer_values,
            head: self.head_bytes / self.head_values,
            embedding: self.embedding_bytes,
        }
    }

    /// Returns the cost of `case` if a step computes `chunk` tokens of a prompt. Weights are read
    /// once per step. KV is read once per token that attends to it, in a chunk once for the chunk.
    pub(super) fn cost(&self, spec: &ModelSpec, case: Case, chunk: usize) -> Cost {
        let (layers, width) = (spec.layers as f64, (spec.kv_heads * spec.head_dim) as f64);
        let kv_bytes = 2.0 * layers * width * KV_BYTES;
        // Per attended token: a product with its key and one with its value, in every query head.
        let attend = 4.0 * layers * (spec.heads * spec.head_dim) as f64;
        match case {
            Case::Prefill(tokens) => {
                let steps = tokens.div_ceil(chunk);
                let read: usize = (1..=steps).map(|step| (step * chunk).min(tokens)).sum();
                let tokens = tokens as f64;
                let bytes =
                    steps as f64 * self.layer_bytes + self.head_bytes + read as f64 * kv_bytes;
                let attended = tokens * (tokens + 1.0) / 2.0;
                let operations =
                    2.0 * (tokens * self.layer_values + self.head_values) + attended * attend;
                Cost { bytes_per_token: bytes / tokens, operations_per_token: operations / tokens }
            }
            Case::Decode(batch) => {
                // The first step attends to the context and itself, the last to STEPS - 1 tokens more.
                let seen = CONTEXT as f64 + (STEPS as f64 + 1.0) / 2.0;
                let weights = (self.layer_bytes + self.head_bytes) / batch as f64;
                Cost {
                    bytes_per_token: weights + seen * kv_bytes,
                    operations_per_token: 2.0 * (self.layer_values + self.head_values)
                        + seen * attend,
                }
            }
        }
    }
}

/// Returns the bytes and values of one tensor.
fn size(file: &ModelFile, name: &str) -> Result<(f64, f64), ModelFileError> {
    let (dtype, shape) = file.layout(name)?;
    let values = shape.iter().product::<usize>() as f64;
    let bytes = values / dtype.block_values() as f64 * dtype.block_bytes() as f64;
    Ok((bytes, values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::example::{spec, weights};

    #[test]
    fn a_decode_step_reads_the_weights_once_and_everyones_kv() {
        let one = weights().cost(&spec(), Case::Decode(1), 512);
        let four = weights().cost(&spec(), Case::Decode(4), 512);
        let kv = 272.5 * (2 * 2 * 8 * 2) as f64;
        assert_eq!(one.bytes_per_token, 872.0 + kv);
        assert_eq!(4.0 * four.bytes_per_token, 872.0 + 4.0 * kv);
        assert_eq!(one.operations_per_token, 2.0 * 1256.0 + 272.5 * (4 * 2 * 16) as f64);
        assert_eq!(one.operations_per_token, four.operations_per_token);
    }

    #[test]
    fn a_prompt_reads_the_weights_once_per_chunk_and_has_one_row_of_logits() {
        let cost = weights().cost(&spec(), Case::Prefill(10), 4);
        let kv = f64::from(4 + 8 + 10) * (2 * 2 * 8 * 2) as f64;
        assert_eq!(10.0 * cost.bytes_per_token, 3.0 * 600.0 + 272.0 + kv);
        let operations = 2.0 * (10.0 * 1000.0 + 256.0) + 55.0 * (4 * 2 * 16) as f64;
        assert!((10.0 * cost.operations_per_token - operations).abs() < 1e-6);
    }
}
