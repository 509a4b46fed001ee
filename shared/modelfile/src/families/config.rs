//! The spec of a model from `config.json`.

use super::{KvHeads, Rules, Window, for_config, rope, tensors};
use crate::error::ModelFileError;
use crate::spec::{ModelSpec, RopePairs, limits};
use crate::table::TensorTable;
use serde_json::Value;

/// A JSON object of settings, with errors that name the field.
pub(super) struct Settings<'a>(pub(super) &'a Value);

impl Settings<'_> {
    fn count(&self, key: &str, most: usize) -> Result<Option<usize>, ModelFileError> {
        match &self.0[key] {
            Value::Null => Ok(None),
            value => match value.as_u64() {
                Some(n) if (1..=most as u64).contains(&n) => Ok(Some(n as usize)),
                _ => Err(ModelFileError::field(key, format!("is {value}, outside 1..={most}"))),
            },
        }
    }

    fn need_count(&self, key: &str, most: usize) -> Result<usize, ModelFileError> {
        self.count(key, most)?.ok_or_else(|| ModelFileError::field(key, "is missing"))
    }

    pub(super) fn positive(&self, key: &str) -> Result<Option<f32>, ModelFileError> {
        match &self.0[key] {
            Value::Null => Ok(None),
            value => match value.as_f64() {
                Some(x) if x.is_finite() && x > 0.0 => Ok(Some(x as f32)),
                _ => Err(ModelFileError::field(key, format!("is {value}, not positive"))),
            },
        }
    }

    fn is_given(&self, key: &str) -> bool {
        self.0.get(key).is_some()
    }
}

/// Reads the spec from `config.json` and checks the tensors against it.
pub(crate) fn from_config(
    config: &Value,
    table: &TensorTable,
) -> Result<ModelSpec, ModelFileError> {
    let model_type = config["model_type"]
        .as_str()
        .ok_or_else(|| ModelFileError::field("model_type", "is missing"))?;
    let rules = for_config(model_type)?;
    refuse_options(config)?;
    let settings = Settings(config);
    let hidden = settings.need_count("hidden_size", limits::WIDTH)?;
    let heads = settings.need_count("num_attention_heads", limits::HEADS)?;
    let layers = settings.need_count("num_hidden_layers", limits::LAYERS)?;
    let context_tokens = settings.need_count("max_position_embeddings", limits::CONTEXT)?;
    let head_dim = match settings.count("head_dim", limits::HEAD_DIM)? {
        Some(head_dim) => head_dim,
        None if settings.is_given("head_dim") => hidden / heads,
        None => rules.config_head_dim.unwrap_or(hidden / heads),
    };
    // Newer files gather everything about rotary embedding under one key.
    let rope = if config["rope_parameters"].is_object() {
        &config["rope_parameters"]
    } else {
        &config["rope_scaling"]
    };
    let rope_theta = match settings.positive("rope_theta")? {
        Some(theta) => theta,
        None => Settings(rope).positive("rope_theta")?.unwrap_or(10_000.0),
    };
    let Rules { family, qkv_bias, head_norms, .. } = *rules;
    let spec = ModelSpec {
        family,
        layers,
        hidden,
        heads,
        kv_heads: kv_heads(&settings, rules, heads)?,
        head_dim,
        ffn: settings.need_count("intermediate_size", limits::WIDTH)?,
        vocab: settings.need_count("vocab_size", limits::VOCAB)?,
        context_tokens,
        rope_theta,
        rope_factors: rope::from_config(rope, rope_theta, head_dim)?,
        rope_pairs: RopePairs::Halves,
        rms_eps: settings.positive("rms_norm_eps")?.unwrap_or(1e-6),
        tied_embeddings: config["tie_word_embeddings"].as_bool().unwrap_or(false)
            || !table.contains("output.weight"),
        window: window(&settings, rules, layers)?.filter(|&tokens| tokens < context_tokens),
        qkv_bias,
        head_norms,
    };
    tensors::check(&spec, table)?;
    Ok(spec)
}

fn kv_heads(settings: &Settings, rules: &Rules, heads: usize) -> Result<usize, ModelFileError> {
    let key = "num_key_value_heads";
    if rules.kv_heads == KvHeads::Needed && !settings.is_given(key) {
        return Err(ModelFileError::field(key, "is missing"));
    }
    Ok(settings.count(key, limits::HEADS)?.unwrap_or(heads))
}

/// Returns the window, which must be that of every layer or of none.
fn window(
    settings: &Settings,
    rules: &Rules,
    layers: usize,
) -> Result<Option<usize>, ModelFileError> {
    let given = settings.count("sliding_window", limits::CONTEXT);
    let (window, first_layer) = match rules.config_window {
        Window::Never => return Ok(None),
        Window::Plain { unless_given } if !settings.is_given("sliding_window") => {
            (Some(unless_given), 0)
        }
        Window::Plain { .. } => (given?, 0),
        Window::Switched if settings.0["use_sliding_window"].as_bool() != Some(true) => {
            return Ok(None);
        }
        Window::Switched => (given?, first_windowed_layer(settings)?),
    };
    let windowed = match settings.0["layer_types"].as_array() {
        Some(kinds) => kinds.iter().filter(|kind| *kind == "sliding_attention").count(),
        None => layers.saturating_sub(first_layer),
    };
    match windowed {
        0 => Ok(None),
        all if all == layers => Ok(window),
        some => Err(ModelFileError::unsupported(format!(
            "a sliding window in {some} of {layers} layers"
        ))),
    }
}

fn first_windowed_layer(settings: &Settings) -> Result<usize, ModelFileError> {
    match &settings.0["max_window_layers"] {
        Value::Null => Ok(28),
        value => value.as_u64().and_then(|n| usize::try_from(n).ok()).ok_or_else(|| {
            ModelFileError::field("max_window_layers", format!("is {value}, not a count of layers"))
        }),
    }
}

/// Options that change what is computed in ways that are not implemented.
fn refuse_options(config: &Value) -> Result<(), ModelFileError> {
    for flag in ["attention_bias", "mlp_bias"] {
        if config[flag].as_bool() == Some(true) {
            return Err(ModelFileError::unsupported(format!("{flag} in config.json")));
        }
    }
    if config["hidden_act"].as_str().is_some_and(|act| act != "silu") {
        return Err(ModelFileError::unsupported(format!("hidden_act {}", config["hidden_act"])));
    }
    for object in [config, &config["rope_parameters"]] {
        let share = &object["partial_rotary_factor"];
        if !share.is_null() && share.as_f64() != Some(1.0) {
            return Err(ModelFileError::unsupported(format!("partial_rotary_factor {share}")));
        }
    }
    let quantized = &config["quantization_config"];
    if quantized.is_object() {
        let method = &quantized["quant_method"];
        return Err(ModelFileError::unsupported(format!("safetensors quantized with {method}")));
    }
    Ok(())
}
