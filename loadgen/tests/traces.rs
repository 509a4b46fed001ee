//! Real traces: their statistics against figures computed elsewhere, and faithful prompts from them.

#![allow(clippy::unwrap_used, reason = "what helps a test may fail like a test")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use loadgen::plan::{Plan, ideal_hits};
use loadgen::prompt::{Prompt, PromptForm, PromptMaker};
use loadgen::trace::shape::{Dequantize, Shape, shape};
use loadgen::trace::stats::stats;
use loadgen::trace::{Format, Trace, read};
use loadgen::units::Range;
use loadgen::vocabulary::{self, Alphabet};
use serde_json::Value;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn plan(trace: &Trace, scale: u32) -> Plan {
    let asked = Shape { window: None, speedup: 1.0, scale, dequantize: Dequantize::None, seed: 1 };
    Plan::replay(trace, &shape(trace, &asked).unwrap())
}

#[test]
fn statistics_of_the_excerpts() {
    let mooncake = read(&data("mooncake_conversation_60s.jsonl"), None, 512).unwrap();
    let stats_ = stats(&mooncake);
    assert_eq!(
        (mooncake.format, stats_.requests, stats_.duration_s),
        (Format::Mooncake, 162, 57.0)
    );
    close(stats_.ia_cv, 2.733_804_017_983_211);
    close(stats_.peak10_rps, 3.8);
    close(stats_.input.quantiles.p99.unwrap(), 87_170.17);
    assert_eq!(stats_.quantum_s, Some(3.0));
    let reuse = stats_.reuse.unwrap();
    assert_eq!((reuse.unique_blocks, reuse.total_blocks, reuse.non_prefix_seen), (4197, 4400, 0));
    close(reuse.token_hit, 0.047_045_340_254_463_8);
    close(reuse.token_hit_2nd_half, 0.053_340_470_693_063_61);
    let azure = read(&data("azure_conv_head.csv"), None, 512).unwrap();
    let stats_ = stats(&azure);
    assert_eq!((azure.format, stats_.requests), (Format::Azure, 100));
    assert_eq!((stats_.input.sum, stats_.output.sum), (80_197, 17_052));
    close(stats_.output.quantiles.p99.unwrap(), 424.02);
    assert_eq!((stats_.quantum_s, stats_.reuse), (None, None));
}

fn close(got: f64, expected: f64) {
    assert!((got - expected).abs() <= 1e-9 * expected.abs(), "{got} is not {expected}");
}

/// The whole files are not part of the repository: `TANDEM_TRACES` names a folder that has them,
/// with a `STATS.json` of figures computed by other means.
#[test]
fn statistics_of_whole_traces_match_those_computed_elsewhere() {
    let Some(folder) = std::env::var_os("TANDEM_TRACES").map(PathBuf::from) else {
        println!("skipped: TANDEM_TRACES names no folder with the whole traces");
        return;
    };
    let text = std::fs::read_to_string(folder.join("STATS.json")).unwrap();
    let expected: Vec<Value> = serde_json::from_str(&text).unwrap();
    for (name, file) in [
        ("mooncake conversation", "mooncake_conversation_trace.jsonl"),
        ("mooncake synthetic", "mooncake_synthetic_trace.jsonl"),
        ("azure 2023 code", "azure2023_code.csv"),
        ("azure 2023 conv", "azure2023_conv.csv"),
    ] {
        let expected = expected.iter().find(|e| e["name"] == name).unwrap();
        let got =
            serde_json::to_value(stats(&read(&folder.join(file), None, 512).unwrap())).unwrap();
        let compared = compare(name, expected, &got);
        assert!(compared >= 17, "{name}: only {compared} figures compared");
        println!("{name}: {compared} figures agree");
    }
}

/// Compares every figure that both have, to the digits that the expected one is given with.
fn compare(at: &str, expected: &Value, got: &Value) -> usize {
    match (expected, got) {
        (Value::Object(fields), Value::Object(_)) => fields
            .iter()
            .filter_map(|(key, value)| Some(compare(&format!("{at}.{key}"), value, got.get(key)?)))
            .sum(),
        (Value::Number(number), Value::Number(other)) => {
            let digits = number.to_string().split_once('.').map_or(0, |(_, d)| d.len().min(6));
            let (expected, got) = (number.as_f64().unwrap(), other.as_f64().unwrap());
            let unit = 10_f64.powi(-(digits as i32));
            assert!((expected - got).abs() <= 0.51 * unit, "{at}: {got} is not {expected}");
            1
        }
        _ => 0,
    }
}

#[test]
fn prompts_of_a_scaled_trace_share_exactly_what_its_blocks_share() {
    let trace = read(&data("mooncake_conversation_60s.jsonl"), None, 512).unwrap();
    let plan = plan(&trace, 64);
    let alphabet = Alphabet::of_range(Range { lo: 1000, hi: 40_000 }, 1).unwrap();
    let blocks = plan.block_count();
    let maker = PromptMaker::new(alphabet, PromptForm::Tokens, 1, trace.digest, blocks);
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
    let trace = read(&data("mooncake_conversation_60s.jsonl"), None, 512).unwrap();
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
    let trace = read(&data("mooncake_conversation_60s.jsonl"), None, 512).unwrap();
    let plan = plan(&trace, 64);
    let form = PromptForm::ExactText(vocabulary.clone());
    let maker = PromptMaker::new(alphabet, form, 3, trace.digest, plan.block_count());
    for request in &plan.requests {
        let Prompt::Text(text) = maker.prompt(request).unwrap() else { panic!("not text") };
        assert_eq!(vocabulary.encode(&text).unwrap(), maker.tokens(request));
    }
}
