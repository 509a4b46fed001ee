//! A tiny random Llama on every device, against the formula and against itself.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "what helps a test may fail like a test"
)]

mod support;

use model::{
    ActivationsChoice, DeviceChoice, IsaChoice, Model, ModelLimits, Precision, StepError,
    StepOutput, Wanted,
};
use modelfile::ModelFile;
use protocol::{BLOCK_TOKENS, BlockChain, FileDigest, ModelFingerprint, Scope};
use std::collections::BTreeSet;
use support::naive::Naive;
use support::{DEVICES, Fed, difference, forward, is_exact, load, load_available, some_tokens};
use tinymodel::TinyLlama;

testbed::suite!();

/// Logits of the tiny model are within about 3 of zero; its KV is f16.
const TOLERANCE: f32 = 2e-3;

fn tiny() -> TinyLlama {
    TinyLlama { tied_embeddings: false, ..Default::default() }
}

/// The model as a GGUF file; its open handle outlives the directory.
fn gguf(tiny: &TinyLlama) -> ModelFile {
    let directory = tempfile::tempdir().unwrap();
    tiny.write_gguf(&directory.path().join("tiny.gguf")).unwrap()
}

/// Runs `check` on every device that this machine has.
fn on_devices(check: impl Fn(&mut Model, &str)) {
    let file = gguf(&tiny());
    for device in DEVICES {
        if let Some(mut model) = load_available(&file, device, 64) {
            check(&mut model, device);
        }
    }
}

#[testbed::test]
fn logits_are_those_of_the_formula_from_either_format() {
    let tokens = some_tokens(150, TinyLlama::vocab(), 1);
    for tiny in [tiny(), TinyLlama { kv_heads: 4, seed: 9, ..TinyLlama::default() }] {
        let wanted = Naive::new(&tiny).logits(&tokens);
        let directory = tempfile::tempdir().unwrap();
        let files = [gguf(&tiny), tiny.write_safetensors(directory.path()).unwrap()];
        for device in DEVICES {
            let mut first: Option<Vec<Vec<f32>>> = None;
            for file in &files {
                let Some(mut model) = load_available(file, device, 64) else { continue };
                let got = Fed::new(&tokens, 3..13).feed_rest(&mut model);
                let off = difference(&got, &wanted);
                println!("{device} {}: off by {off}", file.name());
                assert!(off < TOLERANCE, "{device} {}: off by {off}", file.name());
                // The same numbers in the same order of computation, however the file orders rows.
                assert_eq!(*first.get_or_insert_with(|| got.clone()), got, "{device}");
            }
        }
    }
}

#[testbed::test]
fn chunks_of_any_size_give_what_the_whole_gives() {
    on_devices(|model, device| {
        let tokens = some_tokens(100, TinyLlama::vocab(), 2);
        let whole = Fed::new(&tokens, 0..7).feed_rest(model);
        for sizes in [vec![1; 100], vec![64, 36], vec![17, 1, 30, 16, 36], vec![99, 1]] {
            // Pages in any order, and used before.
            let mut fed = Fed::new(&tokens, [20, 3, 11, 6, 40, 2, 9]);
            let mut rows = Vec::new();
            for size in &sizes {
                rows.extend(fed.feed(model, *size, Wanted::All));
            }
            let off = difference(&whole, &rows);
            println!("{device} chunks {:?}…: off by {off}", &sizes[..2]);
            assert!(off <= exact(device), "{device}: off by {off}");
        }
    });
}

#[testbed::test]
fn company_changes_nothing() {
    on_devices(|model, device| {
        let vocab = TinyLlama::vocab();
        let lengths = [1, 5, 16, 33, 70];
        let tokens: Vec<Vec<u32>> =
            (1..).zip(lengths).map(|(seed, length)| some_tokens(length + 8, vocab, seed)).collect();
        let alone: Vec<Vec<Vec<f32>>> = tokens
            .iter()
            .zip(lengths)
            .map(|(tokens, length)| {
                let mut fed = Fed::new(tokens, 30..36);
                fed.feed(model, length, Wanted::None);
                (0..8).flat_map(|_| fed.feed(model, 1, Wanted::Last)).collect()
            })
            .collect();

        // All prompts in one step, then single tokens together; one joins with its prompt late.
        let mut fed: Vec<Fed> = (0u32..)
            .zip(&tokens)
            .map(|(index, tokens)| Fed::new(tokens, index * 6..index * 6 + 6))
            .collect();
        let mut together = vec![Vec::new(); fed.len()];
        for step in 0..12 {
            let plan: Vec<usize> = (0..fed.len())
                .map(|index| match (index, fed[index].done) {
                    (4, _) if step < 3 => 0,
                    (_, 0) => lengths[index],
                    (_, done) => usize::from(done < tokens[index].len()),
                })
                .collect();
            let batch: Vec<_> = (0..fed.len())
                .filter(|&index| plan[index] > 0)
                .map(|index| {
                    let prompt = fed[index].done == 0;
                    fed[index].next(plan[index], if prompt { Wanted::None } else { Wanted::Last })
                })
                .collect();
            let mut rows = forward(model, &batch).into_iter();
            for index in 0..fed.len() {
                if plan[index] > 0 {
                    together[index].extend(rows.next().unwrap());
                    fed[index].done += plan[index];
                }
            }
        }
        for (index, (alone, together)) in alone.iter().zip(&together).enumerate() {
            let off = difference(alone, together);
            println!("{device} sequence {index}: off by {off}");
            assert!(off <= exact(device), "{device} sequence {index}: off by {off}");
        }
    });
}

#[testbed::test]
fn an_imported_prefix_goes_on_like_a_computed_one() {
    on_devices(|model, device| {
        let tokens = some_tokens(60, TinyLlama::vocab(), 3);
        let mut computed = Fed::new(&tokens, 8..12);
        computed.feed(model, 40, Wanted::None);
        let filled = [16, 16, 8];
        let blocks: Vec<Vec<u8>> = (8..11)
            .zip(filled)
            .map(|(page, filled)| model.export_block(page, filled).unwrap())
            .collect();
        assert!(blocks.iter().all(|block| block.len() == model.block_bytes()));
        let expected = computed.feed_rest(model);

        for (page, block) in [50, 33, 41].into_iter().zip(&blocks) {
            model.import_block(page, block).unwrap();
            // The bytes that went in come out.
            assert_eq!(&model.export_block(page, 16).unwrap(), block, "{device}");
        }
        let mut imported = Fed::new(&tokens, [50, 33, 41, 60]);
        imported.done = 40;
        assert_eq!(imported.feed_rest(model), expected, "{device}");

        // The same tokens computed elsewhere in other chunks make the same bytes.
        let mut again = Fed::new(&tokens, 0..4);
        again.feed(model, 13, Wanted::None);
        again.feed(model, 40 - 13, Wanted::None);
        if exact(device) == 0.0 {
            for (page, (block, filled)) in (0..3).zip(blocks.iter().zip(filled)) {
                assert_eq!(
                    &model.export_block(page, filled).unwrap(),
                    block,
                    "{device} page {page}"
                );
            }
        }
    });
}

#[testbed::test]
fn unfilled_places_of_an_exported_page_are_zero() {
    on_devices(|model, _| {
        let tokens = some_tokens(16, TinyLlama::vocab(), 4);
        Fed::new(&tokens, [5]).feed_rest(model);
        let whole = model.export_block(5, 16).unwrap();
        let part = model.export_block(5, 3).unwrap();
        let spec = model.spec();
        let (head_dim, half) = (spec.head_dim, spec.kv_heads * spec.head_dim * BLOCK_TOKENS);
        let mut kept = 0;
        for (index, (whole, part)) in whole.chunks(2).zip(part.chunks(2)).enumerate() {
            // Keys have tokens across, values have them below each other.
            let token = match index % (2 * half) {
                key if key < half => key % BLOCK_TOKENS,
                value => (value - half) / head_dim % BLOCK_TOKENS,
            };
            if token < 3 {
                assert_eq!(part, whole, "value {index}");
                kept += usize::from(part != [0, 0]);
            } else {
                assert_eq!(part, [0, 0], "value {index}");
            }
        }
        assert!(kept > half / 10, "{kept} values are not zero");
    });
}

#[testbed::test]
fn what_cannot_be_done_is_refused() {
    on_devices(|model, _| {
        let fed = Fed::new(&[1, 2], [64]);
        let outside =
            model.forward(&[fed.next(2, Wanted::Last)], &mut StepOutput::default()).unwrap_err();
        assert!(matches!(outside, StepError::UnknownPage { page: 64, pages: 64 }), "{outside}");
        assert!(matches!(model.export_block(64, 1), Err(StepError::UnknownPage { .. })));
        assert!(matches!(model.export_block(1, 0), Err(StepError::Filled { filled: 0 })));
        assert!(matches!(model.export_block(1, 17), Err(StepError::Filled { filled: 17 })));
        let block = vec![0; model.block_bytes() + 1];
        assert!(matches!(model.import_block(1, &block), Err(StepError::BlockBytes { .. })));
        assert!(forward(model, &[]).is_empty());
    });
}

/// Limit for differences between chunks and company.
fn exact(device: &str) -> f32 {
    if is_exact(device) { 0.0 } else { TOLERANCE }
}

/// A worker must not take up blocks that another precision computed: their names differ.
#[testbed::test]
fn every_precision_names_its_blocks_apart() {
    let file = gguf(&TinyLlama::default());
    let files = FileDigest([7; 32]);
    let tokens: Vec<u32> = (0..16).collect();
    let mut names = Vec::new();
    for (device, computed) in [("cpu", "int8"), ("cpu int16", "int16"), ("reference", "f32")] {
        let model = load(&file, device, 8);
        let format = model.kv_format();
        assert_eq!(format, format!("v2/{computed}/f16/b16/l2/kv2/d16/layer-khdt-vhtd"));
        let fingerprint = ModelFingerprint::new(files, &format);
        names.extend(BlockChain::sealed(fingerprint, Scope::shared(), &tokens));
    }
    let distinct: BTreeSet<_> = names.iter().collect();
    assert_eq!((names.len(), distinct.len()), (3, 3));
}

#[testbed::test]
fn a_small_model_takes_sixteen_bits_by_itself() {
    let file = gguf(&TinyLlama::default());
    let limits = ModelLimits {
        kv_pages: 8,
        threads: 1,
        isa: IsaChoice::Auto,
        activations: ActivationsChoice::Auto,
    };
    let model = Model::load(&file, &DeviceChoice::Cpu, &limits, &mut |_| {}).unwrap();
    let activations = model.activations().unwrap();
    assert_eq!(activations.precision, Precision::Int16);
    assert_eq!(activations.reason, "auto: 0.00 billion parameters, below 2");
    assert_eq!(model.device().name, "cpu int16");
}
