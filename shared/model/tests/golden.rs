//! SmolLM2 against a reference computed in double precision from the same file.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "what helps a test may fail like a test"
)]

mod support;

use model::sampling::argmax;
use model::{BatchSequence, Model, Wanted};
use modelfile::ModelFile;
use support::golden::{Case, golden, golden_of_extent};
use support::{Fed, difference, forward, load};
use testbed::Extent;

testbed::suite!();

fn smollm2() -> ModelFile {
    ModelFile::open(&testbed::smollm2()).unwrap()
}

/// Limits for the distance of a device from the reference.
struct Allowed {
    /// A choice closer than this between the reference's first and second may go either way.
    margin: f32,
    /// Largest error of a log-probability.
    most: f32,
    /// Largest mean error of the log-probabilities of a case.
    mean: f32,
}

/// The CPU's kernels round activations to 8 bits by default, and `tests/accuracy.rs` says what that
/// costs; everything else is as good as single precision.
fn allowed(device: &str) -> Allowed {
    match device {
        "cpu" => Allowed { margin: 1.0, most: 2.0, mean: 0.15 },
        _ => Allowed { margin: 0.05, most: 0.03, mean: 0.01 },
    }
}

/// Compares the logits after the prompt and after each token of the continuation.
fn check(case: &Case, rows: &[Vec<f32>], device: &str) {
    let Allowed { margin, most, mean } = allowed(device);
    assert_eq!(rows.len(), case.steps.len());
    for (index, (row, step)) in rows.iter().zip(&case.steps).enumerate() {
        let (chosen, wanted) = (argmax(row), case.greedy_ids[index]);
        let name = &case.name;
        assert!(
            chosen == wanted || step.margin <= margin,
            "{device} {name} step {index}: {chosen}, not {wanted}"
        );
    }
    let errors = case.errors(rows);
    let worst = errors.iter().copied().fold(0.0, f32::max);
    let average = errors.iter().sum::<f32>() / errors.len() as f32;
    println!(
        "{device} {:<12} {:>3} steps, log-probabilities off by {average:.4}, at most {worst:.4}",
        case.name,
        rows.len()
    );
    assert!(worst <= most && average <= mean, "{device} {}: {average}, {worst}", case.name);
}

#[testbed::test]
fn prompts_become_the_reference_tokens() {
    let file = smollm2();
    let tokenizer = file.tokenizer().unwrap();
    assert_eq!(tokenizer.vocab_size(), 49152);
    assert_eq!(file.special().stop, [0, 2]);
    for case in golden() {
        let ids = tokenizer.encode(&case.rendered, true).unwrap();
        assert_eq!(ids, case.prompt_ids, "{}", case.name);
        let bytes: Vec<u8> =
            ids.iter().flat_map(|&id| tokenizer.token_bytes(id).unwrap()).collect();
        assert_eq!(bytes, case.rendered.as_bytes(), "{}", case.name);
    }
}

/// All prompts in one batch, then all continuations in one batch.
fn check_forced(model: &mut Model, device: &str) {
    let cases = golden_of_extent();
    let mut next_page = 0u32;
    let mut fed: Vec<Fed> = cases
        .iter()
        .map(|case| {
            let tokens = case.tokens();
            let pages = tokens.len().div_ceil(16) as u32;
            next_page += pages;
            Fed::new(&tokens, next_page - pages..next_page)
        })
        .collect();
    let batch: Vec<BatchSequence> =
        fed.iter().zip(&cases).map(|(f, c)| f.next(c.prompt_ids.len(), Wanted::Last)).collect();
    let first = forward(model, &batch);
    fed.iter_mut().zip(&cases).for_each(|(f, c)| f.done = c.prompt_ids.len());
    let batch: Vec<BatchSequence> =
        fed.iter().map(|f| f.next(f.tokens.len() - f.done, Wanted::All)).collect();
    let rest = forward(model, &batch);
    for ((case, first), rest) in cases.into_iter().zip(first).zip(rest) {
        let rows: Vec<Vec<f32>> = first.into_iter().chain(rest).collect();
        check(&case, &rows, device);
    }
}

fn check_device(device: &str) {
    let file = smollm2();
    let mut model = load(&file, device, 128);
    assert_eq!(model.block_bytes(), 368_640);
    check_forced(&mut model, device);
}

#[testbed::test]
fn the_reference_gives_the_golden_continuations() {
    check_device("reference");
}

#[testbed::test]
fn the_cpu_gives_the_golden_continuations() {
    check_device("cpu");
}

#[testbed::test]
fn the_cpu_in_sixteen_bits_gives_the_golden_continuations() {
    check_device("cpu int16");
}

#[testbed::test]
fn stock_operations_on_graphics_give_the_golden_continuations() {
    check_device("reference:wgpu");
}

#[testbed::test]
fn graphics_give_the_golden_continuations() {
    check_device("wgpu");
}

fn check_generated(device: &str) {
    let file = smollm2();
    let mut model = load(&file, device, 64);
    let short = golden().into_iter().filter(|case| case.prompt_ids.len() < 100);
    for case in short.step_by(Extent::from_env().pick(3, 1)) {
        let pages = (case.prompt_ids.len() + case.greedy_ids.len()).div_ceil(16) as u32;
        let mut fed = Fed::new(&case.prompt_ids, 0..pages);
        for (index, (&wanted, step)) in case.greedy_ids.iter().zip(&case.steps).enumerate() {
            let count = fed.tokens.len() - fed.done;
            let rows = fed.feed(&mut model, count, Wanted::Last);
            let chosen = argmax(&rows[0]);
            if step.margin <= allowed(device).margin && chosen != wanted {
                println!("{}: parted at step {index}, a near tie", case.name);
                break;
            }
            assert_eq!(chosen, wanted, "{} step {index}", case.name);
            fed.tokens.push(chosen);
        }
    }
}

#[testbed::test]
fn cpu_generates_the_reference_tokens_step_by_step() {
    check_generated("cpu");
    check_generated("cpu int16");
}

/// Long enough that attention adds up its context in two pieces.
const LONG_TOKENS: usize = 720;

#[testbed::test]
fn cpu_gives_the_same_bits_in_chunks_of_any_size() {
    let file = smollm2();
    let mut model = load(&file, "cpu", 128);
    let cases = golden();
    let tokens = &cases.iter().find(|case| case.name == "long").unwrap().prompt_ids[..LONG_TOKENS];
    let expected = Fed::new(tokens, 0..45).feed(&mut model, LONG_TOKENS, Wanted::Last);
    for sizes in [vec![128, 128, 400, 64], vec![7, 533, 179, 1]] {
        let mut fed = Fed::new(tokens, 50..95);
        let rows =
            sizes.iter().map(|&size| fed.feed(&mut model, size, Wanted::Last)).last().unwrap();
        println!("chunks {sizes:?}: off by {}", difference(&expected, &rows));
        assert_eq!(rows, expected, "chunks {sizes:?}");
        for page in 0..45 {
            let same =
                model.export_block(page, 16).unwrap() == model.export_block(page + 50, 16).unwrap();
            assert!(same, "chunks {sizes:?}: page {page} differs");
        }
    }

    // A prefix that came in as blocks goes on like the computed one.
    for page in 0..44 {
        let block = model.export_block(page, 16).unwrap();
        model.import_block(page + 50, &block).unwrap();
    }
    let mut imported = Fed { done: 704, ..Fed::new(tokens, (50..94).chain([100])) };
    assert_eq!(imported.feed(&mut model, 16, Wanted::Last), expected);
}

#[testbed::test]
fn cpu_gives_the_same_bits_in_any_company() {
    let file = smollm2();
    let mut model = load(&file, "cpu", 160);
    let cases = golden();
    let case = |name: &str| cases.iter().find(|case| case.name == name).unwrap();
    let long = &case("long").prompt_ids[..LONG_TOKENS];
    let chat = &case("multi-turn").tokens()[..72];

    let mut alone = Fed::new(chat, 150..155);
    alone.feed(&mut model, 60, Wanted::None);
    let expected: Vec<Vec<f32>> =
        (0..8).flat_map(|_| alone.feed(&mut model, 1, Wanted::Last)).collect();
    let mut neighbor = Fed::new(long, 100..145);
    neighbor.feed(&mut model, 600, Wanted::None);
    for &company in Extent::from_env().pick(&[3][..], &[1, 3, 15]) {
        let mut fed: Vec<Fed> =
            (0..=company).map(|index| Fed::new(chat, index * 5..index * 5 + 5)).collect();
        for fed in &mut fed {
            fed.feed(&mut model, 60, Wanted::None);
        }
        // Beside them a much longer sequence, in chunks at first and then token by token.
        neighbor.done = 600;
        let mut rows = Vec::new();
        for step in 0..8 {
            let count = if step < 4 { 29 } else { 1 };
            let mut batch: Vec<BatchSequence> =
                fed.iter().map(|f| f.next(1, Wanted::Last)).collect();
            batch.push(neighbor.next(count, Wanted::None));
            rows.extend(forward(&mut model, &batch).remove(company as usize));
            fed.iter_mut().for_each(|fed| fed.done += 1);
            neighbor.done += count;
        }
        println!("company of {company}: off by {}", difference(&expected, &rows));
        assert_eq!(rows, expected, "company of {company}");
    }
}
