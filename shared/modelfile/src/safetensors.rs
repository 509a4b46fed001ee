//! Safetensors files with `config.json`, as Hugging Face lays them out.

use crate::dtype::DType;
use crate::error::ModelFileError;
use crate::reader::Reader;
use crate::shards::Shards;
use crate::table::{Entry, Part, TensorTable};
use serde_json::{Map, Value};
use std::io::BufReader;

/// The format itself allows no longer header.
const HEADER_BYTES_MAX: u64 = 100 << 20;

/// Reads the headers of all files; tensors get the names of `canonical`.
pub(crate) fn open(shards: &Shards) -> Result<TensorTable, ModelFileError> {
    let mut table = TensorTable::default();
    for (file_index, path) in shards.files.iter().enumerate() {
        let part = Part::open(path)?;
        let header = read_header(&part)?;
        let data_start = 8 + header.1;
        table.parts.push(part);
        for (name, description) in &header.0 {
            if name == "__metadata__" {
                continue;
            }
            shards.check_place(name, file_index)?;
            let mut entry = describe(name, description)?;
            entry.file_index = file_index;
            entry.offset = entry.offset.checked_add(data_start).ok_or_else(|| {
                ModelFileError::tensor(name, format!("offset {} overflows", entry.offset))
            })?;
            table.insert(&canonical(name), entry)?;
        }
    }
    shards.check_all(|name| table.contains(&canonical(name)))?;
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

/// Returns the name under which this crate knows a tensor: that of GGUF files.
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
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "self_attn.o_proj" => "attn_output",
        "post_attention_layernorm" => "ffn_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        _ => return name.to_owned(),
    };
    format!("blk.{layer}.{module}.{kind}")
}
