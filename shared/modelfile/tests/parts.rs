//! Models in several files: every part must be there, and be what it says.

#![allow(clippy::unwrap_used, reason = "what helps a test may fail like a test")]

use modelfile::write::{self, Value};
use modelfile::{DType, Family, ModelFile, ModelFileError};
use proptest::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};
use tinymodel::TinyModel;

const INDEX: &str = "model.safetensors.index.json";

fn assert_same(file: &ModelFile, whole: &ModelFile, tiny: &TinyModel) {
    assert_eq!(file.spec(), whole.spec());
    for (name, _) in tiny.tensors() {
        assert_eq!(file.tensor(&name).unwrap(), whole.tensor(&name).unwrap(), "{name}");
    }
    let (ours, theirs) = (file.tokenizer().unwrap(), whole.tokenizer().unwrap());
    assert_eq!(ours.encode("then 12", true).unwrap(), theirs.encode("then 12", true).unwrap());
}

fn open_error(path: &Path) -> String {
    ModelFile::open(path).unwrap_err().to_string()
}

#[test]
fn any_part_opens_the_whole_gguf() {
    for (family, matrices) in [(Family::Llama, DType::Q8_0), (Family::Qwen3, DType::F16)] {
        let directory = tempfile::tempdir().unwrap();
        let tiny = TinyModel { matrices, ..TinyModel::of(family) };
        let whole = tiny.write_gguf(&directory.path().join("whole.gguf")).unwrap();
        let parts = tiny.write_gguf_split(directory.path(), 3).unwrap();
        let digest = ModelFile::open(&parts[0]).unwrap().digest().unwrap();
        for part in &parts {
            let file = ModelFile::open(part).unwrap();
            assert_same(&file, &whole, &tiny);
            assert_eq!(file.name(), whole.name());
            assert_eq!(file.digest().unwrap(), digest);
        }
        // The digest covers every part.
        let mut bytes = fs::read(&parts[2]).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&parts[2], bytes).unwrap();
        assert_ne!(ModelFile::open(&parts[0]).unwrap().digest().unwrap(), digest);
    }
}

#[test]
fn a_missing_or_foreign_part_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let tiny = TinyModel::default();
    let parts = tiny.write_gguf_split(directory.path(), 3).unwrap();
    let second = fs::read(&parts[1]).unwrap();

    fs::remove_file(&parts[1]).unwrap();
    let error = open_error(&parts[2]);
    assert!(error.contains("tiny-00002-of-00003.gguf: is missing"), "{error}");
    assert!(error.contains("tiny-00003-of-00003.gguf is part 3 of 3"), "{error}");
    // Another part under its name.
    fs::copy(&parts[2], &parts[1]).unwrap();
    let error = open_error(&parts[0]);
    assert!(error.contains("tiny-00002-of-00003.gguf: says split.no"), "{error}");
    // A part of another split, with other tensors.
    let metadata = [("split.no", 1), ("split.count", 3), ("split.tensors.count", 99)]
        .map(|(key, n)| (key.to_owned(), Value::Int(n)));
    fs::write(&parts[1], write::gguf(&metadata, &[])).unwrap();
    let error = open_error(&parts[0]);
    assert!(error.contains("tiny-00002-of-00003.gguf") && error.contains("99"), "{error}");
    // The right number, without its tensors.
    let count = tiny.gguf_tensors().len() as i128;
    let metadata = [("split.no", 1), ("split.count", 3), ("split.tensors.count", count)]
        .map(|(key, n)| (key.to_owned(), Value::Int(n)));
    fs::write(&parts[1], write::gguf(&metadata, &[])).unwrap();
    let error = open_error(&parts[0]);
    assert!(error.contains("split.tensors.count"), "{error}");
    // Not a model at all.
    fs::write(&parts[1], b"GGUX").unwrap();
    assert!(open_error(&parts[0]).contains("magic"));
    fs::write(&parts[1], &second).unwrap();
    ModelFile::open(&parts[0]).unwrap();
    // Renamed, a part cannot find its siblings.
    let renamed = directory.path().join("part-one.gguf");
    fs::copy(&parts[0], &renamed).unwrap();
    let error = open_error(&renamed);
    assert!(error.contains("part-one.gguf: is not named …-00001-of-00003.gguf"), "{error}");
}

#[test]
fn a_split_number_outside_its_count_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tiny-00004-of-00003.gguf");
    let mut metadata = TinyModel::default().metadata();
    metadata.push(("split.no".into(), Value::Int(3)));
    metadata.push(("split.count".into(), Value::Int(3)));
    fs::write(&path, write::gguf(&metadata, &TinyModel::default().gguf_tensors())).unwrap();
    assert!(open_error(&path).contains("split.no: is 3, not below split.count 3"));
}

fn sharded(directory: &Path) -> ModelFile {
    TinyModel::of(Family::Qwen2).write_sharded_safetensors(directory, 3).unwrap()
}

fn change_index(directory: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let path = directory.join(INDEX);
    let mut index = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut index);
    fs::write(path, index.to_string()).unwrap();
}

fn shard(directory: &Path, number: usize) -> PathBuf {
    directory.join(format!("model-{number:05}-of-00003.safetensors"))
}

#[test]
fn shards_make_the_model_that_one_file_makes() {
    let (one, many) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let tiny = TinyModel::of(Family::Qwen2);
    let whole = tiny.write_safetensors(one.path()).unwrap();
    assert_same(&sharded(many.path()), &whole, &tiny);
    // A shard, or the index, stands for all of them.
    assert_same(&ModelFile::open(&shard(many.path(), 2)).unwrap(), &whole, &tiny);
    assert_same(&ModelFile::open(&many.path().join(INDEX)).unwrap(), &whole, &tiny);
    // A file that the index does not name is not read.
    fs::write(many.path().join("consolidated.safetensors"), b"anything").unwrap();
    assert_same(&ModelFile::open(many.path()).unwrap(), &whole, &tiny);
    let digest = ModelFile::open(many.path()).unwrap().digest().unwrap();
    let mut bytes = fs::read(shard(many.path(), 3)).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(shard(many.path(), 3), bytes).unwrap();
    assert_ne!(ModelFile::open(many.path()).unwrap().digest().unwrap(), digest);
}

#[test]
fn an_index_that_does_not_fit_its_shards_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let norm = "model.norm.weight";
    let refused = |change: &dyn Fn(&mut serde_json::Value), wanted: &str| {
        sharded(path);
        change_index(path, |index| change(index));
        let error = open_error(path);
        assert!(error.contains(wanted), "{error}");
    };
    let first = "model-00001-of-00003.safetensors";
    refused(&|index| index["weight_map"][norm] = first.into(), "the index says");
    refused(&|index| index["weight_map"]["model.more.weight"] = first.into(), "as the index says");
    refused(
        &|index| drop(index["weight_map"].as_object_mut().unwrap().remove(norm)),
        "the index does not know it",
    );
    for outside in ["../stolen.safetensors", "/etc/passwd", "a/b.safetensors", ".."] {
        refused(
            &|index| index["weight_map"][norm] = outside.into(),
            "not the name of a file beside it",
        );
    }
    refused(&|index| index["weight_map"][norm] = 3.into(), "not the name of a file beside it");
    refused(&|index| index["weight_map"] = serde_json::json!({}), "weight_map");
    refused(&|index| *index = serde_json::json!([]), "weight_map");

    sharded(path);
    fs::remove_file(shard(path, 2)).unwrap();
    let error = ModelFile::open(path).unwrap_err();
    let ModelFileError::Part { path: missing, problem } = &error else { panic!("{error}") };
    assert_eq!(missing, &shard(path, 2));
    assert!(problem.contains(INDEX), "{problem}");
    sharded(path);
    let bytes = fs::read(shard(path, 3)).unwrap();
    fs::write(shard(path, 3), &bytes[..bytes.len() - 1]).unwrap();
    assert!(open_error(path).contains("outside the file"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn damaged_parts_never_panic(
        part in 0usize..3,
        cut in prop::option::of(0usize..1 << 16),
        flips in prop::collection::vec((0usize..3000, any::<u8>()), 0..6),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let tiny = TinyModel { hidden: 8, head_dim: 4, ffn: 8, ..TinyModel::of(Family::Qwen3) };
        let parts = tiny.write_gguf_split(directory.path(), 3).unwrap();
        let mut bytes = fs::read(&parts[part]).unwrap();
        for (at, value) in flips {
            let length = bytes.len();
            bytes[at % length] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut % bytes.len());
        }
        fs::write(&parts[part], bytes).unwrap();
        for path in &parts {
            if let Ok(file) = ModelFile::open(path) {
                let _ = file.tokenizer().map(|tokenizer| tokenizer.encode("the é", true));
                for (name, _) in tiny.tensors() {
                    let _ = file.tensor(&name).map(|tensor| tensor.to_f32());
                }
            }
        }
    }

    #[test]
    fn a_damaged_index_never_panics(
        flips in prop::collection::vec((0usize..1 << 16, any::<u8>()), 1..6),
    ) {
        let directory = tempfile::tempdir().unwrap();
        sharded(directory.path());
        let mut bytes = fs::read(directory.path().join(INDEX)).unwrap();
        for (at, value) in flips {
            let length = bytes.len();
            bytes[at % length] = value;
        }
        fs::write(directory.path().join(INDEX), bytes).unwrap();
        let _ = ModelFile::open(directory.path());
    }
}
