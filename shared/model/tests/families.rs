//! Every family on every device, from every kind of file, against the formula in double precision.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "what helps a test may fail like a test"
)]

mod support;

use model::Model;
use modelfile::{DType, Family, ModelFile};
use std::path::Path;
use support::naive::Naive;
use support::{Fed, difference, load_available, some_tokens};
use testbed::Extent;
use tinymodel::{TinyModel, TinyRope};

testbed::suite!();

const FAMILIES: [Family; 4] = [Family::Llama, Family::Mistral, Family::Qwen2, Family::Qwen3];
/// Logits of the tiny models are within about 3 of zero. What is left is single precision, and KV
/// that rounds to the other neighbor in f16.
const DEVICES: [(&str, f32); 3] = [("reference", 1e-3), ("cpu", 1e-3), ("wgpu", 2e-3)];
/// Activations are 8-bit integers where weights are quantized, on these devices.
const ROUNDING: [(&str, f32); 4] =
    [("reference", 2e-3), ("cpu", 0.15), ("cpu int16", 4e-3), ("wgpu", 0.15)];
/// More tokens than any window, and than the context that Llama's scaling starts from.
const TOKENS: usize = 90;

fn tokens(seed: u64) -> Vec<u32> {
    some_tokens(TOKENS, TinyModel::vocab(), seed)
}

/// Prompt and single tokens, as in use.
fn compute(model: &mut Model, tokens: &[u32]) -> Vec<Vec<f32>> {
    let mut fed = Fed::new(tokens, 3..13);
    let mut rows = fed.feed(model, 50, model::Wanted::All);
    for _ in 0..5 {
        rows.extend(fed.feed(model, 1, model::Wanted::All));
    }
    rows.extend(fed.feed_rest(model));
    rows
}

/// Holds `file` on `devices` against `wanted`.
fn check(file: &ModelFile, what: &str, wanted: &[Vec<f32>], devices: &[(&str, f32)], seed: u64) {
    for (device, tolerance) in devices {
        let Some(mut model) = load_available(file, device, 64) else { continue };
        let off = difference(&compute(&mut model, &tokens(seed)), wanted);
        println!("{device} {what}: off by {off}");
        assert!(off < *tolerance, "{device} {what}: off by {off}");
    }
}

/// The same model in four kinds of files.
fn files(tiny: &TinyModel, directory: &Path) -> Vec<(&'static str, ModelFile)> {
    let folder = |name: &str| {
        let path = directory.join(name);
        std::fs::create_dir(&path).unwrap();
        path
    };
    let parts = tiny.write_gguf_split(&folder("split"), 3).unwrap();
    vec![
        ("GGUF", tiny.write_gguf(&directory.join("tiny.gguf")).unwrap()),
        ("split GGUF", ModelFile::open(&parts[1]).unwrap()),
        ("safetensors", tiny.write_safetensors(&folder("whole")).unwrap()),
        ("shards", tiny.write_sharded_safetensors(&folder("shards"), 2).unwrap()),
    ]
}

#[testbed::test]
fn every_family_is_the_formula_from_every_kind_of_file() {
    for (seed, family) in (1..).zip(FAMILIES) {
        let tiny = TinyModel { seed, ..TinyModel::of(family) };
        let wanted = Naive::new(&tiny).logits(&tokens(seed));
        let directory = tempfile::tempdir().unwrap();
        for (kind, file) in files(&tiny, directory.path()) {
            // The kind of file makes no difference once the weights are loaded.
            let devices = if kind == "GGUF" { &DEVICES[..] } else { &DEVICES[..1] };
            check(&file, &format!("{family}, {kind}"), &wanted, devices, seed);
        }
    }
}

#[testbed::test]
fn options_that_several_families_share_are_the_formula_too() {
    let qwen3 = TinyModel::of(Family::Qwen3);
    let cases = [
        TinyModel { window: Some(33), tied_embeddings: false, ..TinyModel::of(Family::Qwen2) },
        TinyModel { window: Some(16), kv_heads: 4, ..qwen3.clone() },
        // Every query head has keys of its own, or all share one.
        TinyModel { kv_heads: 1, rope: TinyRope::Linear(4.0), ..qwen3 },
        TinyModel { window: Some(1), ..TinyModel::of(Family::Mistral) },
        TinyModel { matrices: DType::BF16, ..TinyModel::of(Family::Llama) },
        TinyModel { matrices: DType::F16, ..TinyModel::of(Family::Qwen2) },
    ];
    for (seed, tiny) in (11..).zip(cases) {
        let tiny = TinyModel { seed, ..tiny };
        let wanted = Naive::new(&tiny).logits(&tokens(seed));
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path();
        let gguf = tiny.write_gguf(&folder.join("tiny.gguf")).unwrap();
        check(&gguf, &format!("{tiny:?}, GGUF"), &wanted, &DEVICES, seed);
        if Extent::from_env() == Extent::Exhaustive {
            let safetensors = tiny.write_safetensors(folder).unwrap();
            check(&safetensors, &format!("{tiny:?}, safetensors"), &wanted, &DEVICES, seed);
        }
    }
}

#[testbed::test]
fn quantized_weights_are_the_formula_over_what_they_stand_for() {
    let formats = [DType::Q4_0, DType::Q4_1, DType::Q8_0, DType::Q4_K, DType::Q6_K];
    for (seed, (matrices, family)) in (21..).zip(formats.into_iter().zip(FAMILIES.iter().cycle())) {
        let tiny = TinyModel {
            seed,
            matrices,
            layers: 1,
            hidden: 256,
            heads: 8,
            head_dim: 32,
            ffn: 256,
            ..TinyModel::of(*family)
        };
        let wanted = Naive::new(&tiny).logits(&tokens(seed));
        let directory = tempfile::tempdir().unwrap();
        let file = tiny.write_gguf(&directory.path().join("tiny.gguf")).unwrap();
        check(&file, &format!("{family} in {matrices:?}"), &wanted, &ROUNDING, seed);
    }
}

/// Each model without what sets it apart: the checks above would not pass for it.
#[testbed::test]
fn what_sets_a_family_apart_is_seen() {
    for (seed, family) in (1..).zip(FAMILIES) {
        let tiny = TinyModel { seed, ..TinyModel::of(family) };
        let wanted = Naive::new(&tiny).logits(&tokens(seed));
        let directory = tempfile::tempdir().unwrap();
        let plain = match family {
            Family::Llama => TinyModel { rope: TinyRope::Plain, ..tiny.clone() },
            Family::Mistral => TinyModel { window: None, ..tiny.clone() },
            // A Llama file has no place for the biases or the norms; its weights are the same.
            Family::Qwen2 | Family::Qwen3 => TinyModel { family: Family::Llama, ..tiny.clone() },
        };
        let file = plain.write_gguf(&directory.path().join("tiny.gguf")).unwrap();
        for (device, tolerance) in DEVICES {
            let Some(mut model) = load_available(&file, device, 64) else { continue };
            let got = compute(&mut model, &tokens(seed));
            let off = difference(&got, &wanted);
            println!("{device} {family} without its option: off by {off}");
            assert!(off > 20.0 * tolerance, "{device} {family}: only off by {off}");
            if let Some(window) = tiny.window {
                // Up to its width a window changes nothing.
                let off = difference(&got[..window], &wanted[..window]);
                assert!(off < tolerance, "{device} within the window: off by {off}");
            }
        }
    }
}
