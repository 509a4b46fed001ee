//! Real traces: their statistics against figures computed elsewhere, and faithful prompts from them.

#![allow(clippy::unwrap_used, reason = "what helps a test may fail like a test")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use loadgen::plan::{Origin, Plan, ideal_hits};
use loadgen::prompt::{Prompt, PromptForm, PromptMaker};
use loadgen::trace::shape::{Dequantize, Shape, shape};
use loadgen::trace::stats::stats;
use loadgen::trace::{Format, ReadOptions, Trace, read, summary};
use loadgen::units::Range;
use loadgen::vocabulary::{self, Alphabet};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn plain(path: &Path) -> Trace {
    read(path, &ReadOptions::default()).unwrap()
}

fn plan(trace: &Trace, scale: u32) -> Plan {
    let asked = Shape { window: None, speedup: 1.0, scale, dequantize: Dequantize::None, seed: 1 };
    Plan::replay(trace, &shape(trace, &asked).unwrap())
}

fn origin(trace: &Trace, seed: u64) -> Origin {
    let blocks = trace.block_ids.len();
    Origin { source: trace.name.clone(), digest: trace.digest, seed, blocks }
}

#[test]
fn statistics_of_the_excerpts() {
    let mooncake = plain(&data("mooncake_conversation_60s.jsonl"));
    let stats_ = stats(&mooncake);
    let pace = stats_.pace.unwrap();
    assert_eq!((mooncake.format, stats_.requests, pace.duration_s), (Format::Mooncake, 162, 57.0));
    close(pace.ia_cv, 2.733_804_017_983_211);
    close(pace.peak10_rps, 3.8);
    close(stats_.input.quantiles.p99.unwrap(), 87_170.17);
    assert_eq!(pace.quantum.map(|q| q.step_ns), Some(3_000_000_000));
    let reuse = stats_.reuse.unwrap();
    assert_eq!((reuse.unique_blocks, reuse.total_blocks, reuse.non_prefix_seen), (4197, 4400, 0));
    close(reuse.token_hit, 0.047_045_340_254_463_8);
    close(reuse.token_hit_2nd_half, 0.053_340_470_693_063_61);
    let azure = plain(&data("azure_conv_head.csv"));
    let stats_ = stats(&azure);
    assert_eq!((azure.format, stats_.requests), (Format::Azure, 100));
    assert_eq!((stats_.input.sum, stats_.output.sum), (80_197, 17_052));
    close(stats_.output.quantiles.p99.unwrap(), 424.02);
    assert_eq!((stats_.pace.unwrap().quantum, stats_.reuse), (None, None));
}

fn close(got: f64, expected: f64) {
    assert!((got - expected).abs() <= 1e-9 * expected.abs(), "{got} is not {expected}");
}

/// The whole files are not part of the repository: they are looked for beside it, or in the folder
/// that `TANDEM_TRACES` names, with a `STATS.json` of figures computed by other means.
#[test]
fn statistics_of_whole_traces_are_those_computed_elsewhere_to_the_digit() {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/traces");
    let folder = std::env::var_os("TANDEM_TRACES").map_or(beside, PathBuf::from);
    let Ok(text) = std::fs::read_to_string(folder.join("STATS.json")) else {
        println!("skipped: whole traces: no STATS.json in {}", folder.display());
        return;
    };
    // Compared as text, since it is the digits that count.
    let without_spaces = |text: &str| text.split_whitespace().collect::<String>();
    let expected = without_spaces(&text);
    for file in [
        "mooncake_conversation_trace.jsonl",
        "mooncake_synthetic_trace.jsonl",
        "azure2023_code.csv",
        "azure2023_conv.csv",
    ] {
        let got = summary::json(&stats(&plain(&folder.join(file)))).to_string();
        assert!(expected.contains(&without_spaces(&got)), "{file}: {got}");
    }
}

#[test]
fn prompts_of_a_scaled_trace_share_exactly_what_its_blocks_share() {
    let trace = plain(&data("mooncake_conversation_60s.jsonl"));
    let plan = plan(&trace, 64);
    let alphabet = Alphabet::of_range(Range { lo: 1000, hi: 40_000 }, 1).unwrap();
    let maker = PromptMaker::new(alphabet, PromptForm::Tokens, &origin(&trace, 1));
    assert_eq!(maker.collisions(&plan.requests), 0);
    let mut content: HashMap<u64, Vec<u32>> = HashMap::new();
    let mut compared = 0;
    for request in &plan.requests {
        let tokens = maker.tokens(request);
        assert_eq!(tokens.len(), request.input_tokens as usize);
        for (block, tokens) in request.blocks.iter().zip(tokens.chunks(8)) {
            let known = content.entry(block.id).or_insert_with(|| tokens.to_vec());
            let both = known.len().min(tokens.len());
            assert_eq!(known[..both], tokens[..both]);
            compared += both;
        }
    }
    assert!(compared > 30_000);
    // Different blocks differ in their first token, so prompts part where their blocks do.
    let mut firsts: Vec<u32> = content.values().map(|tokens| tokens[0]).collect();
    firsts.sort_unstable();
    firsts.dedup();
    assert_eq!(firsts.len(), content.len());
}

#[test]
fn scaling_a_real_trace_leaves_its_ideal_hits_alone() {
    let trace = plain(&data("mooncake_conversation_60s.jsonl"));
    let ideal = |scale, block| ideal_hits(&plan(&trace, scale).requests, block);
    let (whole, small) = (ideal(1, 16), ideal(64, 8));
    assert_eq!(whole.block_hit, small.block_hit);
    close(whole.token_hit, 0.047_045_340_254_463_8);
    assert!((whole.token_hit - small.token_hit).abs() < 0.001);
}

#[test]
fn text_prompts_of_the_served_model_are_exact() {
    let Some(model) = testbed::model_path() else { return };
    let vocabulary = vocabulary::open(&model).unwrap();
    let alphabet = Alphabet::of_words(vocabulary.as_ref(), 3).unwrap();
    assert!(alphabet.ids().len() > 5000, "{} words", alphabet.ids().len());
    let trace = plain(&data("mooncake_conversation_60s.jsonl"));
    let plan = plan(&trace, 64);
    let form = PromptForm::ExactText(vocabulary.clone());
    let maker = PromptMaker::new(alphabet, form, &origin(&trace, 3));
    for request in &plan.requests {
        let Prompt::Text(text) = maker.prompt(request).unwrap() else { panic!("not text") };
        assert_eq!(vocabulary.encode(&text).unwrap(), maker.tokens(request));
    }
}
