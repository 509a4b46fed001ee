//! What each family needs from a file: its constants, its tensors and their shapes.

use crate::error::ModelFileError;
use crate::spec::{Family, ModelSpec, RopePairs, limits};
use crate::table::TensorTable;
use crate::value::Metadata;

const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Reads the spec of a GGUF file and checks its tensors against it.
pub(crate) fn from_gguf(
    metadata: &Metadata,
    table: &TensorTable,
) -> Result<ModelSpec, ModelFileError> {
    let architecture = metadata
        .text("general.architecture")?
        .ok_or_else(|| ModelFileError::field("general.architecture", "is missing"))?;
    if architecture != "llama" {
        return Err(ModelFileError::unsupported(format!("architecture {architecture:?}")));
    }
    let key = |suffix: &str| format!("{architecture}.{suffix}");
    let hidden = metadata.need_count(&key("embedding_length"), limits::WIDTH)?;
    let heads = metadata.need_count(&key("attention.head_count"), limits::HEADS)?;
    let head_dim = match metadata.count(&key("attention.key_length"), limits::HEAD_DIM)? {
        Some(head_dim) => head_dim,
        None => hidden / heads,
    };
    let rotated = metadata.count(&key("rope.dimension_count"), limits::HEAD_DIM)?;
    if rotated.is_some_and(|n| n != head_dim) {
        return Err(ModelFileError::unsupported(format!(
            "rotary embedding over {rotated:?} of {head_dim} elements"
        )));
    }
    if metadata.count(&key("expert_count"), limits::HEADS)?.is_some() {
        return Err(ModelFileError::unsupported("mixture of experts"));
    }
    let spec = ModelSpec {
        family: Family::Llama,
        layers: metadata.need_count(&key("block_count"), limits::LAYERS)?,
        hidden,
        heads,
        kv_heads: metadata.count(&key("attention.head_count_kv"), limits::HEADS)?.unwrap_or(heads),
        head_dim,
        ffn: metadata.need_count(&key("feed_forward_length"), limits::WIDTH)?,
        vocab: metadata.need_texts("tokenizer.ggml.tokens")?.len(),
        context_tokens: metadata.need_count(&key("context_length"), limits::CONTEXT)?,
        rope_theta: metadata.positive(&key("rope.freq_base"))?.unwrap_or(10_000.0),
        rope_factors: gguf_rope_factors(metadata, table, head_dim)?,
        rope_pairs: RopePairs::Interleaved,
        rms_eps: metadata.positive(&key("attention.layer_norm_rms_epsilon"))?.ok_or_else(|| {
            ModelFileError::field(key("attention.layer_norm_rms_epsilon"), "is missing")
        })?,
        tied_embeddings: !table.contains("output.weight"),
    };
    check(&spec, table)?;
    Ok(spec)
}

fn gguf_rope_factors(
    metadata: &Metadata,
    table: &TensorTable,
    head_dim: usize,
) -> Result<Option<Vec<f32>>, ModelFileError> {
    match metadata.text("llama.rope.scaling.type")? {
        None | Some("none") => {}
        Some("linear") => {
            let factor = metadata.positive("llama.rope.scaling.factor")?.unwrap_or(1.0);
            return Ok(Some(vec![factor; head_dim / 2]));
        }
        Some(other) => {
            return Err(ModelFileError::unsupported(format!("rope scaling {other:?}")));
        }
    }
    let Some(shape) = table.shape(ROPE_FACTORS) else { return Ok(None) };
    if shape != [head_dim / 2] {
        let problem = format!("has shape {shape:?}, not [{}]", head_dim / 2);
        return Err(ModelFileError::tensor(ROPE_FACTORS, problem));
    }
    let factors = table.read(ROPE_FACTORS)?.to_f32();
    if factors.iter().any(|factor| !factor.is_finite() || *factor <= 0.0) {
        return Err(ModelFileError::tensor(ROPE_FACTORS, "has a factor that is not positive"));
    }
    Ok(Some(factors))
}

/// Checks sizes against each other, and every tensor of the family against them.
pub(crate) fn check(spec: &ModelSpec, table: &TensorTable) -> Result<(), ModelFileError> {
    if !spec.heads.is_multiple_of(spec.kv_heads) {
        let problem = format!("{} does not divide {} heads", spec.kv_heads, spec.heads);
        return Err(ModelFileError::field("attention.head_count_kv", problem));
    }
    if spec.head_dim == 0 || !spec.head_dim.is_multiple_of(2) {
        let problem = format!("head width {} is not even and positive", spec.head_dim);
        return Err(ModelFileError::field("attention.key_length", problem));
    }
    if spec.vocab == 0 || spec.vocab > limits::VOCAB {
        let problem = format!("{} is outside 1..={}", spec.vocab, limits::VOCAB);
        return Err(ModelFileError::field("vocab_size", problem));
    }
    for (name, wanted) in global_tensors(spec) {
        check_shape(table, name, &wanted)?;
    }
    for layer in 0..spec.layers {
        for (part, wanted) in layer_tensors(spec) {
            check_shape(table, &format!("blk.{layer}.{part}"), &wanted)?;
        }
        for bias in ["attn_q.bias", "attn_k.bias", "attn_v.bias", "attn_output.bias"] {
            if table.contains(&format!("blk.{layer}.{bias}")) {
                return Err(ModelFileError::unsupported(format!("bias in blk.{layer}.{bias}")));
            }
        }
    }
    Ok(())
}

fn global_tensors(spec: &ModelSpec) -> Vec<(&'static str, Vec<usize>)> {
    let mut tensors = vec![
        ("token_embd.weight", vec![spec.vocab, spec.hidden]),
        ("output_norm.weight", vec![spec.hidden]),
    ];
    if !spec.tied_embeddings {
        tensors.push(("output.weight", vec![spec.vocab, spec.hidden]));
    }
    tensors
}

fn layer_tensors(spec: &ModelSpec) -> [(&'static str, Vec<usize>); 9] {
    let (query_width, kv_width) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
    [
        ("attn_norm.weight", vec![spec.hidden]),
        ("attn_q.weight", vec![query_width, spec.hidden]),
        ("attn_k.weight", vec![kv_width, spec.hidden]),
        ("attn_v.weight", vec![kv_width, spec.hidden]),
        ("attn_output.weight", vec![spec.hidden, query_width]),
        ("ffn_norm.weight", vec![spec.hidden]),
        ("ffn_gate.weight", vec![spec.ffn, spec.hidden]),
        ("ffn_up.weight", vec![spec.ffn, spec.hidden]),
        ("ffn_down.weight", vec![spec.hidden, spec.ffn]),
    ]
}

fn check_shape(table: &TensorTable, name: &str, wanted: &[usize]) -> Result<(), ModelFileError> {
    match table.shape(name) {
        Some(shape) if shape == wanted => Ok(()),
        Some(shape) => {
            Err(ModelFileError::tensor(name, format!("has shape {shape:?}, not {wanted:?}")))
        }
        None => Err(ModelFileError::tensor(name, "is missing")),
    }
}
