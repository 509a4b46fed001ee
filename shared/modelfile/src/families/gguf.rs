//! The spec of a model from the metadata of its GGUF file.

use super::{Rules, for_gguf, rope, tensors};
use crate::error::ModelFileError;
use crate::spec::{ModelSpec, limits};
use crate::table::TensorTable;
use crate::value::{Metadata, Value};

/// Keys of an architecture that change what is computed in ways that are not implemented.
const REFUSED: [&str; 4] = [
    "attention.scale",
    "attention.clamp_kqv",
    "attention.sliding_window_pattern",
    "attn_logit_softcapping",
];

/// Reads the spec of a GGUF file and checks its tensors against it.
pub(crate) fn from_gguf(
    metadata: &Metadata,
    table: &TensorTable,
) -> Result<ModelSpec, ModelFileError> {
    let architecture = metadata
        .text("general.architecture")?
        .ok_or_else(|| ModelFileError::field("general.architecture", "is missing"))?;
    let rules = for_gguf(architecture, metadata)?;
    let key = |suffix: &str| format!("{architecture}.{suffix}");
    refuse_options(metadata, architecture)?;
    let hidden = metadata.need_count(&key("embedding_length"), limits::WIDTH)?;
    let heads = metadata.need_count(&key("attention.head_count"), limits::HEADS)?;
    let head_dim = head_dim(metadata, architecture, hidden / heads)?;
    let context_tokens = metadata.need_count(&key("context_length"), limits::CONTEXT)?;
    let Rules { family, gguf_rope_pairs, qkv_bias, head_norms, .. } = *rules;
    let window = metadata.count_or_zero(&key("attention.sliding_window"), limits::CONTEXT)?;
    let spec = ModelSpec {
        family,
        layers: metadata.need_count(&key("block_count"), limits::LAYERS)?,
        hidden,
        heads,
        kv_heads: metadata.count(&key("attention.head_count_kv"), limits::HEADS)?.unwrap_or(heads),
        head_dim,
        ffn: metadata.need_count(&key("feed_forward_length"), limits::WIDTH)?,
        vocab: metadata.need_texts("tokenizer.ggml.tokens")?.len(),
        context_tokens,
        rope_theta: metadata.positive(&key("rope.freq_base"))?.unwrap_or(10_000.0),
        rope_factors: rope::from_gguf(metadata, architecture, table, head_dim)?,
        rope_pairs: gguf_rope_pairs,
        rms_eps: metadata.positive(&key("attention.layer_norm_rms_epsilon"))?.ok_or_else(|| {
            ModelFileError::field(key("attention.layer_norm_rms_epsilon"), "is missing")
        })?,
        tied_embeddings: !table.contains("output.weight"),
        window: window.filter(|&tokens| tokens < context_tokens),
        qkv_bias,
        head_norms,
    };
    tensors::check(&spec, table)?;
    Ok(spec)
}

/// Returns the width of a head; keys, values and the rotated part must have the same.
fn head_dim(
    metadata: &Metadata,
    architecture: &str,
    by_division: usize,
) -> Result<usize, ModelFileError> {
    let count =
        |suffix: &str| metadata.count(&format!("{architecture}.{suffix}"), limits::HEAD_DIM);
    let head_dim = count("attention.key_length")?.unwrap_or(by_division);
    for suffix in ["attention.value_length", "rope.dimension_count"] {
        if let Some(other) = count(suffix)?.filter(|&other| other != head_dim) {
            return Err(ModelFileError::unsupported(format!(
                "{architecture}.{suffix} {other} where keys have {head_dim} elements"
            )));
        }
    }
    Ok(head_dim)
}

fn refuse_options(metadata: &Metadata, architecture: &str) -> Result<(), ModelFileError> {
    let experts = format!("{architecture}.expert_count");
    if metadata.count_or_zero(&experts, limits::HEADS)?.is_some() {
        return Err(ModelFileError::unsupported("mixture of experts"));
    }
    for suffix in REFUSED {
        let key = format!("{architecture}.{suffix}");
        if let Some(value) = metadata.0.get(&key)
            && *value != Value::Bool(false)
        {
            return Err(ModelFileError::unsupported(format!("{key} {value:?}")));
        }
    }
    Ok(())
}
