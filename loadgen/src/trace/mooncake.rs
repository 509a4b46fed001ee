//! Mooncake JSON lines: `{"timestamp", "input_length", "output_length", "hash_ids"}`.

use serde::Deserialize;

use super::{Interner, Record};
use crate::units::NS_PER_MS;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    timestamp: u64,
    input_length: u32,
    output_length: u32,
    hash_ids: Vec<u64>,
}

/// Whether the first line of a file is a record of this format.
pub(super) fn looks_right(text: &str) -> bool {
    serde_json::from_str::<Line>(text).is_ok()
}

/// Reads one line and checks that its blocks cover its tokens exactly.
pub(super) fn record(
    text: &str,
    block_tokens: u32,
    interner: &mut Interner,
) -> Result<Record, String> {
    let line: Line = serde_json::from_str(text).map_err(|e| e.to_string())?;
    if line.input_length == 0 {
        return Err("input_length is 0".to_owned());
    }
    let expected = line.input_length.div_ceil(block_tokens) as usize;
    if line.hash_ids.len() != expected {
        return Err(format!(
            "{} tokens make {expected} blocks of {block_tokens}, but hash_ids names {}",
            line.input_length,
            line.hash_ids.len()
        ));
    }
    let at_ns = i64::try_from(line.timestamp).ok().and_then(|ms| ms.checked_mul(NS_PER_MS));
    let blocks = line.hash_ids.iter().map(|id| interner.intern(*id)).collect::<Result<_, _>>()?;
    Ok(Record {
        at_ns: at_ns.ok_or_else(|| format!("timestamp {} ms is out of range", line.timestamp))?,
        input_tokens: line.input_length,
        output_tokens: line.output_length,
        blocks,
    })
}
