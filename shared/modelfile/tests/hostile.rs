//! Damaged and hostile files give an error, never a panic and never a large allocation.

#![allow(clippy::unwrap_used, reason = "what helps a test may fail like a test")]

use modelfile::write::{self, Value};
use modelfile::{DType, ModelFile, TensorData};
use proptest::prelude::*;
use std::path::Path;
use tinymodel::TinyLlama;

fn small() -> TinyLlama {
    TinyLlama {
        layers: 1,
        hidden: 8,
        heads: 2,
        kv_heads: 1,
        head_dim: 4,
        ffn: 8,
        ..Default::default()
    }
}

/// Opens a file of `bytes` and uses whatever it offers.
fn exercise(path: &Path, bytes: &[u8]) -> Result<(), String> {
    std::fs::write(path, bytes).unwrap();
    let file = ModelFile::open(path).map_err(|error| error.to_string())?;
    let tokenizer = file.tokenizer().map_err(|error| error.to_string())?;
    tokenizer.encode("the <|im_end|> and 12 é", true).map_err(|error| error.to_string())?;
    tokenizer.decode(&[0, 5, 1 << 30], false);
    for name in ["token_embd.weight", "blk.0.attn_q.weight", "blk.0.ffn_down.weight"] {
        file.tensor(name).map_err(|error| error.to_string())?.to_f32();
    }
    Ok(())
}

fn valid_gguf() -> Vec<u8> {
    write::gguf(&small().metadata(), &small().tensors())
}

/// Bytes before the first tensor's data.
fn header_bytes(gguf: &[u8]) -> usize {
    let data: usize =
        small().tensors().iter().map(|(_, t)| t.bytes.len().next_multiple_of(32)).sum();
    gguf.len() - data
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_truncated_gguf_is_an_error(cut in 0usize..1 << 16) {
        let dir = tempfile::tempdir().unwrap();
        let bytes = valid_gguf();
        let cut = cut % bytes.len();
        let error = exercise(&dir.path().join("t.gguf"), &bytes[..cut]).unwrap_err();
        prop_assert!(
            ["field", "tensor"].iter().any(|word| error.contains(word)) || cut < 4,
            "cut at {}: {}", cut, error
        );
    }

    #[test]
    fn a_gguf_with_flipped_bytes_never_panics(
        flips in prop::collection::vec((0usize..1 << 20, any::<u8>()), 1..6)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = valid_gguf();
        let header = header_bytes(&bytes);
        for (at, value) in flips {
            bytes[at % header] = value;
        }
        let _ = exercise(&dir.path().join("t.gguf"), &bytes);
    }

    #[test]
    fn damaged_safetensors_never_panic(
        cut in prop::option::of(0usize..1 << 16),
        flips in prop::collection::vec((0usize..1 << 20, any::<u8>()), 0..6)
    ) {
        let dir = tempfile::tempdir().unwrap();
        small().write_safetensors(dir.path()).unwrap();
        let path = dir.path().join("model.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        for (at, value) in &flips {
            let header = 3000.min(bytes.len());
            bytes[at % header] = *value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut % bytes.len());
            prop_assert!(exercise(&path, &bytes).is_err());
        } else {
            let _ = exercise(&path, &bytes);
        }
    }

    #[test]
    fn damaged_companions_never_panic(
        name in prop::sample::select(vec!["config.json", "tokenizer.json", "tokenizer_config.json"]),
        flips in prop::collection::vec((0usize..1 << 20, any::<u8>()), 1..6)
    ) {
        let dir = tempfile::tempdir().unwrap();
        small().write_safetensors(dir.path()).unwrap();
        let mut bytes = std::fs::read(dir.path().join(name)).unwrap();
        for (at, value) in flips {
            let length = bytes.len();
            bytes[at % length] = value;
        }
        std::fs::write(dir.path().join(name), bytes).unwrap();
        if let Ok(file) = ModelFile::open(dir.path()) {
            let _ = file.tokenizer().map(|tokenizer| tokenizer.encode("the é", true));
        }
    }
}

#[test]
fn the_undamaged_files_open() {
    let dir = tempfile::tempdir().unwrap();
    exercise(&dir.path().join("t.gguf"), &valid_gguf()).unwrap();
}

#[test]
fn counts_beyond_the_file_are_refused_before_memory_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.gguf");
    let valid = valid_gguf();
    for (at, field) in [(8, "tensor_count"), (16, "metadata_kv_count"), (24, "key 0")] {
        for count in [u64::MAX, 1 << 60, 1 << 40, 60_000] {
            let mut bytes = valid.clone();
            bytes[at..at + 8].copy_from_slice(&count.to_le_bytes());
            // 60,000 pairs of 13 bytes might fit; whatever is read then ends in an error too.
            let error = exercise(&path, &bytes).unwrap_err();
            if count > 60_000 {
                assert!(error.contains(field), "{field} = {count}: {error}");
            }
        }
    }
    // An array of 2^61 texts inside an otherwise sound header.
    let needle = b"tokenizer.ggml.tokens";
    let at = valid.windows(needle.len()).position(|w| w == needle).unwrap() + needle.len();
    let mut bytes = valid.clone();
    bytes[at + 8..at + 16].copy_from_slice(&(1u64 << 61).to_le_bytes());
    let error = exercise(&path, &bytes).unwrap_err();
    assert!(error.contains("tokenizer.ggml.tokens"), "{error}");
    // An array of arrays.
    let mut bytes = valid;
    bytes[at + 4..at + 8].copy_from_slice(&9u32.to_le_bytes());
    let error = exercise(&path, &bytes).unwrap_err();
    assert!(error.contains("array of arrays"), "{error}");
}

#[test]
fn misplaced_tensors_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.gguf");
    let valid = valid_gguf();
    let name = b"blk.0.ffn_up.weight";
    // After the name: dimension count, two sizes, type, offset.
    let at = valid.windows(name.len()).position(|w| w == name).unwrap() + name.len();
    let change = |at: usize, value: &[u8]| {
        let mut bytes = valid.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        let error = exercise(&path, &bytes).unwrap_err();
        assert!(error.contains("blk.0.ffn_up.weight"), "{error}");
        error
    };

    assert!(change(at, &0u32.to_le_bytes()).contains("0 dimensions"));
    assert!(change(at, &99u32.to_le_bytes()).contains("99 dimensions"));
    assert!(change(at + 4, &0u64.to_le_bytes()).contains("zero"));
    assert!(change(at + 4, &u64::MAX.to_le_bytes()).contains("cannot be"));
    assert!(change(at + 4, &16u64.to_le_bytes()).contains("lap"));
    assert!(change(at + 20, &77u32.to_le_bytes()).contains("ggml type 77,"));
    assert!(change(at + 20, &13u32.to_le_bytes()).contains("ggml type 13 (Q5_K),"));
    assert!(change(at + 20, &3u32.to_le_bytes()).contains("cannot be Q4_1"));
    assert!(change(at + 24, &1u64.to_le_bytes()).contains("multiple"));
    assert!(change(at + 24, &(1u64 << 40).to_le_bytes()).contains("outside the file"));
    assert!(change(at + 24, &(u64::MAX - 31).to_le_bytes()).contains("overflow"));
}

#[test]
fn two_tensors_of_one_name_and_repeated_keys_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.gguf");
    let mut tensors = small().tensors();
    tensors.push(tensors[3].clone());
    let error = exercise(&path, &write::gguf(&small().metadata(), &tensors)).unwrap_err();
    assert!(error.contains("occurs twice"), "{error}");

    let mut metadata = small().metadata();
    metadata.push(("general.name".into(), Value::Text("again".into())));
    let error = exercise(&path, &write::gguf(&metadata, &small().tensors())).unwrap_err();
    assert!(error.contains("general.name: occurs twice"), "{error}");
}

#[test]
fn merges_that_join_nothing_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut metadata = small().metadata();
    metadata.retain(|(key, _)| key != "tokenizer.ggml.merges");
    metadata.push(("tokenizer.ggml.merges".into(), Value::Texts(vec!["the the".into()])));
    let bytes = write::gguf(&metadata, &small().tensors());
    let error = exercise(&dir.path().join("t.gguf"), &bytes).unwrap_err();
    assert!(error.contains("tokenizer.ggml.merges"), "{error}");
}

#[test]
fn quantized_rows_must_be_whole_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let mut tensors = small().tensors();
    let (_, tensor) = tensors.iter_mut().find(|(name, _)| name == "blk.0.ffn_up.weight").unwrap();
    *tensor = TensorData { dtype: DType::Q8_0, shape: vec![8, 8], bytes: vec![0; 68] };
    let bytes = write::gguf(&small().metadata(), &tensors);
    let error = exercise(&dir.path().join("t.gguf"), &bytes).unwrap_err();
    assert!(error.contains("blk.0.ffn_up.weight") && error.contains("Q8_0"), "{error}");
}
