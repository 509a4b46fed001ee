//! The JSON and text files beside safetensors.

use crate::error::ModelFileError;
use serde_json::Value;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Longest companion that is read: a tokenizer of a million tokens stays below it.
const BYTES_MAX: u64 = 128 << 20;

/// Returns the bytes of a companion, or nothing if there is no such file.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, ModelFileError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ModelFileError::io(path, error)),
    };
    let mut bytes = Vec::new();
    file.take(BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| ModelFileError::io(path, error))?;
    if bytes.len() as u64 > BYTES_MAX {
        let problem = format!("is longer than {BYTES_MAX} bytes");
        return Err(ModelFileError::field(path.display().to_string(), problem));
    }
    Ok(Some(bytes))
}

pub(crate) fn need(path: &Path) -> Result<Vec<u8>, ModelFileError> {
    read(path)?.ok_or_else(|| ModelFileError::field(path.display().to_string(), "is missing"))
}

pub(crate) fn read_text(path: &Path) -> Result<Option<String>, ModelFileError> {
    read(path)?
        .map(String::from_utf8)
        .transpose()
        .map_err(|_| ModelFileError::field(path.display().to_string(), "is not UTF-8"))
}

pub(crate) fn read_json(path: &Path) -> Result<Option<Value>, ModelFileError> {
    read(path)?.map(|bytes| parse_json(path, &bytes)).transpose()
}

pub(crate) fn need_json(path: &Path) -> Result<Value, ModelFileError> {
    parse_json(path, &need(path)?)
}

fn parse_json(path: &Path, bytes: &[u8]) -> Result<Value, ModelFileError> {
    serde_json::from_slice(bytes).map_err(|error| {
        ModelFileError::field(path.display().to_string(), format!("is not JSON: {error}"))
    })
}
