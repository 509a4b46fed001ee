//! The cost of each implementation's rounding on a real model: against golden continuations, against
//! the reference path, and in the perplexity of a text.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "what helps a test may fail like a test"
)]

mod support;

use modelfile::ModelFile;
use std::sync::OnceLock;
use support::accuracy::{Accuracy, WINDOW, golden_rows, measure, measure_rows, text};
use support::load;
use testbed::Extent;

testbed::suite!();

/// Pages for a window or the longest golden case.
const PAGES: usize = 80;

/// A device's figures and the reference's, over the first `tokens` tokens of the text.
fn compare(device: &str, tokens: usize) -> (Accuracy, Accuracy) {
    let file = ModelFile::open(&testbed::smollm2()).unwrap();
    let mut model = load(&file, device, PAGES);
    let mut text = text(&file);
    assert!(text.len() >= tokens, "the text has {} tokens", text.len());
    text.truncate(tokens);
    let mut reference = load(&file, "reference", PAGES);
    static REFERENCE: OnceLock<Vec<Vec<Vec<f32>>>> = OnceLock::new();
    let rows = REFERENCE.get_or_init(|| golden_rows(&mut reference));
    let wanted = measure_rows(&mut reference, rows, rows, &text);
    drop(reference);
    let got = measure(&mut model, rows, &text);
    println!("{wanted}\n{got}");
    (got, wanted)
}

/// Limits for the distance of a device from golden log-probabilities and from the reference path.
struct Allowed {
    cosine_least: f64,
    cosine_median: f64,
    logprob_error: f64,
}

/// The cost of single precision, and of a precision close to it.
const SINGLE: Allowed =
    Allowed { cosine_least: 0.9999, cosine_median: 0.99999, logprob_error: 0.002 };
/// The cost of 8-bit activations with a scale for every 32: no kernel can lose less than the rounding
/// itself, which stock operations over rounded activations lose too. llama.cpp rounds alike; it is
/// 0.09 to 0.11 away from the same log-probabilities.
const EIGHT_BITS: Allowed =
    Allowed { cosine_least: 0.98, cosine_median: 0.9995, logprob_error: 0.1 };

fn check(device: &str, tokens: usize, allowed: &Allowed) {
    let (got, reference) = compare(device, tokens);
    assert!(got.cosine_least >= allowed.cosine_least, "{got}");
    assert!(got.cosine_median >= allowed.cosine_median, "{got}");
    assert!(got.logprob_error <= allowed.logprob_error, "{got}");
    // Nothing changes where the choice is clear, nor in what a text is worth.
    assert_eq!(got.wrong, 0, "{got}");
    let off = (got.perplexity / reference.perplexity - 1.0).abs();
    assert!(off <= 0.005, "{got}: {} by the reference", reference.perplexity);
    assert!(reference.logprob_error <= SINGLE.logprob_error, "{reference}");
}

#[testbed::test]
fn integer_activations_change_no_clear_choice() {
    check("cpu", Extent::from_env().pick(2, 8) * WINDOW, &EIGHT_BITS);
}

#[testbed::test]
fn sixteen_bits_cost_nothing() {
    let tokens = Extent::from_env().pick(WINDOW / 4, 2 * WINDOW);
    check("cpu int16", tokens, &SINGLE);
}

#[testbed::test]
fn graphics_kernels_cost_nothing() {
    // A software adapter takes its time: a part of a window shows what single precision loses.
    check("wgpu", WINDOW / 4, &SINGLE);
}
