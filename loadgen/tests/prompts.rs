//! Prompts of a real trace share exactly what its blocks share.

#![allow(clippy::unwrap_used, reason = "what helps a test may fail like a test")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use loadgen::plan::prompt::{Prompt, PromptForm, PromptMaker};
use loadgen::plan::vocabulary::{self, Alphabet};
use loadgen::plan::{Origin, Plan, ideal_hits};
use traces::quantum::Dequantize;
use traces::shape::{Shape, shape};
use traces::units::Range;
use traces::{ReadOptions, Trace, read};

testbed::suite!();

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/traces/tests/data").join(name)
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

#[testbed::test]
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
    // Different blocks differ in their first token, so prompts diverge where their blocks do.
    let mut firsts: Vec<u32> = content.values().map(|tokens| tokens[0]).collect();
    firsts.sort_unstable();
    firsts.dedup();
    assert_eq!(firsts.len(), content.len());
}

#[testbed::test]
fn scaling_a_real_trace_leaves_its_ideal_hits_alone() {
    let trace = plain(&data("mooncake_conversation_60s.jsonl"));
    let ideal = |scale, block| ideal_hits(&plan(&trace, scale).requests, block);
    let (whole, small) = (ideal(1, 16), ideal(64, 8));
    assert_eq!(whole.block_hit, small.block_hit);
    close(whole.token_hit, 0.047_045_340_254_463_8);
    assert!((whole.token_hit - small.token_hit).abs() < 0.001);
}

#[testbed::test]
fn text_prompts_of_the_served_model_are_exact() {
    let model = testbed::smollm2();
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

fn close(got: f64, expected: f64) {
    assert!((got - expected).abs() <= 1e-9 * expected.abs(), "{got} is not {expected}");
}
