//! Safetensors files with `config.json`, as Hugging Face lays them out.

use crate::dtype::DType;
use crate::error::ModelFileError;
use crate::family;
use crate::reader::Reader;
use crate::spec::{Family, ModelSpec, RopePairs, limits};
use crate::table::{Entry, Part, TensorTable};
use serde_json::{Map, Value};
use std::io::BufReader;
use std::path::PathBuf;

/// The format itself allows no longer header.
const HEADER_BYTES_MAX: u64 = 100 << 20;

/// Reads the headers of all `files`; tensors get the names of `canonical`.
pub(crate) fn open(files: &[PathBuf]) -> Result<TensorTable, ModelFileError> {
    let mut table = TensorTable::default();
    for (file_index, path) in files.iter().enumerate() {
        let part = Part::open(path)?;
        let header = read_header(&part)?;
        let data_start = 8 + header.1;
        table.parts.push(part);
        for (name, description) in &header.0 {
            if name == "__metadata__" {
                continue;
            }
            let mut entry = describe(name, description)?;
            entry.file_index = file_index;
            entry.offset = entry.offset.checked_add(data_start).ok_or_else(|| {
                ModelFileError::tensor(name, format!("offset {} overflows", entry.offset))
            })?;
            table.insert(&canonical(name), entry)?;
        }
    }
    table.check_overlap()?;
    Ok(table)
}

fn read_header(part: &Part) -> Result<(Map<String, Value>, u64), ModelFileError> {
    let mut reader = Reader::new(BufReader::new(&part.file), part.bytes);
    let length = reader.u64("header length")?;
    if length > HEADER_BYTES_MAX {
        let problem = format!("is {length}, more than {HEADER_BYTES_MAX}");
        return Err(ModelFileError::field("header length", problem));
    }
    let text = reader.bytes("header", length as usize)?;
    let header = serde_json::from_slice(&text)
        .map_err(|error| ModelFileError::field("header", format!("is not JSON: {error}")))?;
    Ok((header, length))
}

fn describe(name: &str, description: &Value) -> Result<Entry, ModelFileError> {
    let fail = |problem: &str| ModelFileError::tensor(name, problem);
    let dtype = match description["dtype"].as_str() {
        Some("F32") => DType::F32,
        Some("F16") => DType::F16,
        Some("BF16") => DType::BF16,
        Some(other) => return Err(fail(&format!("has dtype {other:?}, not F32, F16 or BF16"))),
        None => return Err(fail("has no dtype")),
    };
    let numbers = |key: &str| -> Option<Vec<u64>> {
        description[key].as_array()?.iter().map(Value::as_u64).collect()
    };
    let shape = numbers("shape").ok_or_else(|| fail("has no shape"))?;
    let shape = shape.iter().map(|&n| n as usize).collect();
    let offsets = numbers("data_offsets").ok_or_else(|| fail("has no data_offsets"))?;
    let &[start, end] = offsets.as_slice() else {
        return Err(fail(&format!("has {} data_offsets, not 2", offsets.len())));
    };
    let bytes = end
        .checked_sub(start)
        .ok_or_else(|| fail(&format!("data_offsets {start}..{end} run backwards")))?;
    Ok(Entry { file_index: 0, dtype, shape, offset: start, bytes })
}

/// The name under which this crate knows a tensor: that of GGUF files.
fn canonical(name: &str) -> String {
    let short = name.strip_prefix("model.").unwrap_or(name);
    match short {
        "embed_tokens.weight" => return "token_embd.weight".into(),
        "norm.weight" => return "output_norm.weight".into(),
        "lm_head.weight" => return "output.weight".into(),
        _ => {}
    }
    let Some((layer, part)) = short.strip_prefix("layers.").and_then(|rest| rest.split_once('.'))
    else {
        return name.to_owned();
    };
    let Some((module, kind)) = part.rsplit_once('.') else { return name.to_owned() };
    let module = match module {
        "input_layernorm" => "attn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "post_attention_layernorm" => "ffn_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        _ => return name.to_owned(),
    };
    format!("blk.{layer}.{module}.{kind}")
}

/// A JSON object of settings, with errors that name the field.
pub(crate) struct Settings<'a>(pub(crate) &'a Value);

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

    fn positive(&self, key: &str) -> Result<Option<f32>, ModelFileError> {
        match &self.0[key] {
            Value::Null => Ok(None),
            value => match value.as_f64() {
                Some(x) if x.is_finite() && x > 0.0 => Ok(Some(x as f32)),
                _ => Err(ModelFileError::field(key, format!("is {value}, not positive"))),
            },
        }
    }
}

/// Reads the spec from `config.json` and checks the tensors against it.
pub(crate) fn spec(config: &Value, table: &TensorTable) -> Result<ModelSpec, ModelFileError> {
    match config["model_type"].as_str() {
        Some("llama") => {}
        other => return Err(ModelFileError::unsupported(format!("model_type {other:?}"))),
    }
    for flag in ["attention_bias", "mlp_bias"] {
        if config[flag].as_bool() == Some(true) {
            return Err(ModelFileError::unsupported(format!("{flag} in config.json")));
        }
    }
    if config["hidden_act"].as_str().is_some_and(|act| act != "silu") {
        return Err(ModelFileError::unsupported(format!("hidden_act {}", config["hidden_act"])));
    }
    let settings = Settings(config);
    let hidden = settings.need_count("hidden_size", limits::WIDTH)?;
    let heads = settings.need_count("num_attention_heads", limits::HEADS)?;
    let head_dim = settings.count("head_dim", limits::HEAD_DIM)?.unwrap_or(hidden / heads);
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
    let spec = ModelSpec {
        family: Family::Llama,
        layers: settings.need_count("num_hidden_layers", limits::LAYERS)?,
        hidden,
        heads,
        kv_heads: settings.count("num_key_value_heads", limits::HEADS)?.unwrap_or(heads),
        head_dim,
        ffn: settings.need_count("intermediate_size", limits::WIDTH)?,
        vocab: settings.need_count("vocab_size", limits::VOCAB)?,
        context_tokens: settings.need_count("max_position_embeddings", limits::CONTEXT)?,
        rope_theta,
        rope_factors: rope_factors(rope, rope_theta, head_dim)?,
        rope_pairs: RopePairs::Halves,
        rms_eps: settings.positive("rms_norm_eps")?.unwrap_or(1e-6),
        tied_embeddings: config["tie_word_embeddings"].as_bool().unwrap_or(false)
            || !table.contains("output.weight"),
    };
    family::check(&spec, table)?;
    Ok(spec)
}

/// Divisors of the rotary frequencies for the scaling that `rope` asks for.
fn rope_factors(
    rope: &Value,
    theta: f32,
    head_dim: usize,
) -> Result<Option<Vec<f32>>, ModelFileError> {
    let kind = rope["rope_type"].as_str().or(rope["type"].as_str()).unwrap_or("default");
    let need = |key: &str| {
        Settings(rope)
            .positive(key)?
            .ok_or_else(|| ModelFileError::field(format!("rope_scaling.{key}"), "is missing"))
    };
    match kind {
        "default" => Ok(None),
        "linear" => Ok(Some(vec![need("factor")?; head_dim / 2])),
        "llama3" => {
            let factor = need("factor")?;
            let (low, high) = (need("low_freq_factor")?, need("high_freq_factor")?);
            let trained = need("original_max_position_embeddings")?;
            let factors = (0..head_dim / 2).map(|pair| {
                let frequency = theta.powf(-2.0 * pair as f32 / head_dim as f32);
                let turns = trained * frequency / std::f32::consts::TAU;
                // From "divide all" below `low` turns over the trained context to "leave" above `high`.
                let keep = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                1.0 / ((1.0 - keep) / factor + keep)
            });
            Ok(Some(factors.collect()))
        }
        other => Err(ModelFileError::unsupported(format!("rope scaling {other:?}"))),
    }
}
