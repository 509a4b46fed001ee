//! Rotary embedding stretched to longer contexts: divisors of its frequencies.

use super::config::Settings;
use crate::error::ModelFileError;
use crate::table::TensorTable;
use crate::value::Metadata;
use serde_json::Value;

/// The tensor in which GGUF files keep the divisors that Llama 3.x needs.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

fn unknown(kind: &str) -> ModelFileError {
    ModelFileError::unsupported(format!("rope scaling {kind:?}; known are none, linear and llama3"))
}

/// Reads the divisors of a GGUF file, one per pair of elements.
pub(super) fn from_gguf(
    metadata: &Metadata,
    architecture: &str,
    table: &TensorTable,
    head_dim: usize,
) -> Result<Option<Vec<f32>>, ModelFileError> {
    let key = |suffix: &str| format!("{architecture}.rope.{suffix}");
    // A factor without a type is a linear one; older files had one key for both.
    let linear = match metadata.text(&key("scaling.type"))? {
        Some("none") => None,
        None | Some("linear") => match metadata.positive(&key("scaling.factor"))? {
            Some(factor) => Some(factor),
            None => metadata.positive(&key("scale_linear"))?,
        },
        Some(other) => return Err(unknown(other)),
    };
    let own = own_factors(table, head_dim)?;
    Ok(match (linear, own) {
        (None, own) => own,
        (Some(factor), None) => Some(vec![factor; head_dim / 2]),
        (Some(factor), Some(own)) => Some(own.into_iter().map(|each| each * factor).collect()),
    })
}

fn own_factors(table: &TensorTable, head_dim: usize) -> Result<Option<Vec<f32>>, ModelFileError> {
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

/// Computes the divisors that `rope`, a config's object about rotary embedding, asks for.
pub(super) fn from_config(
    rope: &Value,
    theta: f32,
    head_dim: usize,
) -> Result<Option<Vec<f32>>, ModelFileError> {
    let kind = rope["rope_type"].as_str().or(rope["type"].as_str()).unwrap_or("default");
    let field = |key: &str| format!("rope_scaling.{key}");
    let need = |key: &str| {
        Settings(rope).positive(key)?.ok_or_else(|| ModelFileError::field(field(key), "is missing"))
    };
    match kind {
        "default" => Ok(None),
        "linear" => Ok(Some(vec![need("factor")?; head_dim / 2])),
        "llama3" => {
            let factor = need("factor")?;
            let (low, high) = (need("low_freq_factor")?, need("high_freq_factor")?);
            if low >= high {
                let problem = format!("is {high}, not above low_freq_factor {low}");
                return Err(ModelFileError::field(field("high_freq_factor"), problem));
            }
            let trained = need("original_max_position_embeddings")?;
            let factors = (0..head_dim / 2).map(|pair| {
                let frequency = theta.powf(-2.0 * pair as f32 / head_dim as f32);
                let turns = trained * frequency / std::f32::consts::TAU;
                // From "divide all" below `low` turns over the trained context to "leave" above
                // `high`.
                let keep = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                1.0 / ((1.0 - keep) / factor + keep)
            });
            Ok(Some(factors.collect()))
        }
        other => Err(unknown(other)),
    }
}
