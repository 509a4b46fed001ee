//! A step on the CPU allocates nothing once its buffers have grown.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "what helps a test may fail like a test"
)]

mod support;

use model::{BatchSequence, StepOutput, Wanted};
use support::{load, some_tokens};
use tinymodel::TinyLlama;

testbed::suite!();

const SEQUENCES: usize = 16;
const PAGES_EACH: usize = 8;

fn check(device: &str) {
    let directory = tempfile::tempdir().unwrap();
    let file = TinyLlama::default().write_gguf(&directory.path().join("tiny.gguf")).unwrap();
    let mut model = load(&file, device, SEQUENCES * PAGES_EACH);
    let tokens = some_tokens(SEQUENCES, TinyLlama::vocab(), 5);
    let pages: Vec<u32> = (0..(SEQUENCES * PAGES_EACH) as u32).collect();
    let mut out = StepOutput::default();
    let mut counted = 0;
    for position in 0..100 {
        let batch: Vec<BatchSequence> = tokens
            .chunks(1)
            .zip(pages.chunks(PAGES_EACH))
            .enumerate()
            .map(|(index, (tokens, pages))| BatchSequence {
                tokens,
                position,
                pages,
                logits: if index % 3 == 0 { Wanted::Last } else { Wanted::Top(1 + index) },
            })
            .collect();
        let info = allocation_counter::measure(|| model.forward(&batch, &mut out).unwrap());
        // The tables of pages grow with the first tokens.
        if position > PAGES_EACH * 16 / 2 {
            counted += 1;
            assert_eq!(info.count_total, 0, "{device}: at position {position}");
        }
    }
    println!("{device}: no allocation in {counted} steps of {SEQUENCES} sequences");
}

#[testbed::test]
fn a_steady_step_allocates_nothing() {
    check("cpu");
    check("cpu int16");
}
