//! The tensors of a model: all that are needed, with their shapes, and no others.

use super::rope::ROPE_FACTORS;
use crate::error::ModelFileError;
use crate::spec::{ModelSpec, limits};
use crate::table::TensorTable;
use std::collections::BTreeMap;

/// Checks sizes against each other, and every tensor of the file against them.
pub(super) fn check(spec: &ModelSpec, table: &TensorTable) -> Result<(), ModelFileError> {
    check_sizes(spec)?;
    for (name, wanted) in global_tensors(spec) {
        check_shape(table, name, &wanted)?;
    }
    let parts = layer_tensors(spec);
    for layer in 0..spec.layers {
        for (part, wanted) in &parts {
            check_shape(table, &format!("blk.{layer}.{part}"), wanted)?;
        }
    }
    // A tensor that is not used would be a model that is not computed as it was trained.
    let unknown = table.names().find(|name| {
        let is_known = match name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
            Some((layer, part)) => {
                parts.contains_key(part)
                    && layer.parse::<usize>().is_ok_and(|layer| layer < spec.layers)
            }
            None => is_known_global(name),
        };
        !is_known
    });
    match unknown {
        Some(name) => {
            let family = spec.family;
            Err(ModelFileError::unsupported(format!("tensor {name} in a {family} model")))
        }
        None => Ok(()),
    }
}

fn is_known_global(name: &str) -> bool {
    // The last are frequencies that follow from the base, which older files wrote out.
    ["token_embd.weight", "output_norm.weight", "output.weight", ROPE_FACTORS].contains(&name)
        || name.ends_with(".rotary_emb.inv_freq")
}

fn check_sizes(spec: &ModelSpec) -> Result<(), ModelFileError> {
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

fn layer_tensors(spec: &ModelSpec) -> BTreeMap<&'static str, Vec<usize>> {
    let (query_width, kv_width) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
    let mut tensors = BTreeMap::from([
        ("attn_norm.weight", vec![spec.hidden]),
        ("attn_q.weight", vec![query_width, spec.hidden]),
        ("attn_k.weight", vec![kv_width, spec.hidden]),
        ("attn_v.weight", vec![kv_width, spec.hidden]),
        ("attn_output.weight", vec![spec.hidden, query_width]),
        ("ffn_norm.weight", vec![spec.hidden]),
        ("ffn_gate.weight", vec![spec.ffn, spec.hidden]),
        ("ffn_up.weight", vec![spec.ffn, spec.hidden]),
        ("ffn_down.weight", vec![spec.hidden, spec.ffn]),
    ]);
    if spec.qkv_bias {
        tensors.insert("attn_q.bias", vec![query_width]);
        tensors.insert("attn_k.bias", vec![kv_width]);
        tensors.insert("attn_v.bias", vec![kv_width]);
    }
    if spec.head_norms {
        tensors.insert("attn_q_norm.weight", vec![spec.head_dim]);
        tensors.insert("attn_k_norm.weight", vec![spec.head_dim]);
    }
    tensors
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
