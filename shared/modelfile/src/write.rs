//! Writes model files in the formats this crate reads.

use crate::dtype::DType;
use crate::error::ModelFileError;
use crate::gguf::{ALIGNMENT, MAGIC};
use crate::tensor::TensorData;
pub use crate::value::Value;
use safetensors::tensor::{Dtype as SafeDtype, TensorView, serialize};

/// A tensor and the name it has in the file.
pub type NamedTensor = (String, TensorData);

/// Returns the bytes of a GGUF file (version 3) with `metadata` and `tensors` in the order given.
pub fn gguf(metadata: &[(String, Value)], tensors: &[NamedTensor]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(MAGIC);
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        put_text(&mut out, key);
        put_value(&mut out, value);
    }
    let mut offset = 0u64;
    for (name, tensor) in tensors {
        put_text(&mut out, name);
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        for &size in tensor.shape.iter().rev() {
            out.extend((size as u64).to_le_bytes());
        }
        out.extend(tensor.dtype.ggml_id().to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset = (offset + tensor.bytes.len() as u64).next_multiple_of(ALIGNMENT);
    }
    for (_, tensor) in tensors {
        out.resize(out.len().next_multiple_of(ALIGNMENT as usize), 0);
        out.extend(&tensor.bytes);
    }
    out
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    let kind = |out: &mut Vec<u8>, kind: u32| out.extend(kind.to_le_bytes());
    let array = |out: &mut Vec<u8>, item_kind: u32, count: usize| {
        kind(out, 9);
        kind(out, item_kind);
        out.extend((count as u64).to_le_bytes());
    };
    match value {
        Value::Int(n) => match (u32::try_from(*n), i64::try_from(*n)) {
            (Ok(n), _) => {
                kind(out, 4);
                out.extend(n.to_le_bytes());
            }
            (_, Ok(n)) => {
                kind(out, 11);
                out.extend(n.to_le_bytes());
            }
            _ => {
                kind(out, 10);
                out.extend((*n as u64).to_le_bytes());
            }
        },
        Value::Float(x) => {
            kind(out, 6);
            out.extend((*x as f32).to_le_bytes());
        }
        Value::Bool(flag) => {
            kind(out, 7);
            out.push(u8::from(*flag));
        }
        Value::Text(text) => {
            kind(out, 8);
            put_text(out, text);
        }
        Value::Ints(ints) => {
            array(out, 11, ints.len());
            ints.iter().for_each(|n| out.extend(n.to_le_bytes()));
        }
        Value::Floats(floats) => {
            array(out, 6, floats.len());
            floats.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }
        Value::Texts(texts) => {
            array(out, 8, texts.len());
            texts.iter().for_each(|text| put_text(out, text));
        }
    }
}

/// Returns the bytes of a safetensors file; block formats have no place in it.
pub fn safetensors(tensors: &[NamedTensor]) -> Result<Vec<u8>, ModelFileError> {
    let views = tensors.iter().map(|(name, tensor)| {
        let dtype = match tensor.dtype {
            DType::F32 => SafeDtype::F32,
            DType::F16 => SafeDtype::F16,
            DType::BF16 => SafeDtype::BF16,
            other => {
                return Err(ModelFileError::unsupported(format!("{other:?} in safetensors")));
            }
        };
        let view = TensorView::new(dtype, tensor.shape.clone(), &tensor.bytes)
            .map_err(|error| ModelFileError::tensor(name, error.to_string()))?;
        Ok((name.as_str(), view))
    });
    let views = views.collect::<Result<Vec<_>, _>>()?;
    serialize(views, None).map_err(|error| ModelFileError::field("header", error.to_string()))
}
