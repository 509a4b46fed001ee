//! Random schedules on tiny models of every family: a sequence's logits are the same to the bit
//! whatever is beside it, however it is cut, wherever its KV comes from, on any number of threads.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "what helps a test may fail like a test"
)]

mod support;

use model::{BatchSequence, IsaChoice, Model, RowOutput, StepOutput, Wanted};
use modelfile::{DType, Family, ModelFile};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::cell::RefCell;
use support::{DEVICES, is_exact, load_with, some_tokens};
use testbed::Extent;
use tinymodel::TinyModel;

testbed::suite!();

const PAGES: u32 = 64;
const PAGES_EACH: u32 = 7;
/// Schedules for each model: the representative number, and the exhaustive one.
const CASES: [u32; 2] = [2, 24];
/// The same on a software adapter, which takes its time.
const CASES_ON_GRAPHICS: [u32; 2] = [1, 8];

/// One sequence's part in a step.
#[derive(Clone, Debug)]
struct Turn {
    sequence: usize,
    tokens: usize,
    /// Its KV is exported and imported elsewhere before the step.
    is_moved: bool,
}

#[derive(Clone, Debug)]
struct Schedule {
    seed: u64,
    lengths: Vec<usize>,
    steps: Vec<Vec<Turn>>,
}

fn schedules() -> impl Strategy<Value = Schedule> {
    let turn = (0..5usize, prop_oneof![Just(1), 1..40usize], prop::bool::weighted(0.15))
        .prop_map(|(sequence, tokens, is_moved)| Turn { sequence, tokens, is_moved });
    let steps = prop::collection::vec(prop::collection::vec(turn, 1..5), 1..14);
    let lengths = prop::collection::vec(1..100usize, 1..5);
    (any::<u64>(), lengths, steps).prop_map(|(seed, lengths, steps)| Schedule {
        seed,
        lengths,
        steps,
    })
}

/// A sequence on its way.
struct Going {
    tokens: Vec<u32>,
    pages: Vec<u32>,
    done: usize,
    rows: Vec<Vec<f32>>,
}

impl Going {
    fn start(schedule: &Schedule, free: &mut Vec<u32>) -> Vec<Self> {
        let lengths = schedule.lengths.iter().enumerate();
        lengths
            .map(|(index, &length)| Self {
                tokens: some_tokens(length, TinyModel::vocab(), schedule.seed ^ index as u64),
                pages: free.split_off(free.len() - PAGES_EACH as usize),
                done: 0,
                rows: Vec::new(),
            })
            .collect()
    }

    fn left(&self) -> usize {
        self.tokens.len() - self.done
    }

    fn next(&self, count: usize) -> BatchSequence<'_> {
        BatchSequence {
            tokens: &self.tokens[self.done..self.done + count],
            position: self.done,
            pages: &self.pages,
            logits: Wanted::All,
        }
    }

    /// Takes its KV to other pages, through blocks.
    fn move_away(&mut self, model: &mut Model, free: &mut Vec<u32>) {
        let pages = free.split_off(free.len() - PAGES_EACH as usize);
        for (start, (&from, &to)) in (0..self.done).step_by(16).zip(self.pages.iter().zip(&pages)) {
            let filled = (self.done - start).min(16) as u32;
            let bytes = model.export_block(from, filled).unwrap();
            model.import_block(to, &bytes).unwrap();
        }
        free.splice(0..0, std::mem::replace(&mut self.pages, pages));
    }
}

/// The turns of a step that can be taken: one for each sequence that has tokens left.
fn due(turns: &[Turn], going: &[Going]) -> Vec<Turn> {
    let mut due: Vec<Turn> = Vec::new();
    for turn in turns {
        let sequence = turn.sequence % going.len();
        let tokens = turn.tokens.min(going[sequence].left());
        if tokens > 0 && due.iter().all(|other| other.sequence != sequence) {
            due.push(Turn { sequence, tokens, is_moved: turn.is_moved });
        }
    }
    due
}

fn step(model: &mut Model, going: &mut [Going], due: &[Turn]) {
    let batch: Vec<BatchSequence> =
        due.iter().map(|turn| going[turn.sequence].next(turn.tokens)).collect();
    let mut out = StepOutput::default();
    model.forward(&batch, &mut out).unwrap();
    for (index, turn) in due.iter().enumerate() {
        let going = &mut going[turn.sequence];
        going.done += turn.tokens;
        going.rows.extend(out.sequence(index).map(|row| match row {
            RowOutput::Whole(logits) => logits.to_vec(),
            RowOutput::Top(_) => panic!("whole rows were wanted"),
        }));
    }
}

/// The logits of every sequence after every token, as scheduled; then all that is left, at once.
fn run(model: &mut Model, schedule: &Schedule) -> Vec<Vec<Vec<f32>>> {
    let mut free: Vec<u32> = (0..PAGES).rev().collect();
    let mut going = Going::start(schedule, &mut free);
    for turns in &schedule.steps {
        let due = due(turns, &going);
        for turn in due.iter().filter(|turn| turn.is_moved) {
            going[turn.sequence].move_away(model, &mut free);
        }
        step(model, &mut going, &due);
    }
    let rest = |(sequence, going): (usize, &Going)| Turn {
        sequence,
        tokens: going.left(),
        is_moved: false,
    };
    let rest: Vec<Turn> =
        going.iter().enumerate().map(rest).filter(|turn| turn.tokens > 0).collect();
    step(model, &mut going, &rest);
    going.into_iter().map(|going| going.rows).collect()
}

/// Every sequence whole and alone.
fn alone(model: &mut Model, schedule: &Schedule) -> Vec<Vec<Vec<f32>>> {
    let mut free: Vec<u32> = (0..PAGES).collect();
    let mut going = Going::start(schedule, &mut free);
    for sequence in 0..going.len() {
        let tokens = going[sequence].left();
        step(model, &mut going, &[Turn { sequence, tokens, is_moved: false }]);
    }
    going.into_iter().map(|going| going.rows).collect()
}

fn tiny(seed: u64, family: Family, matrices: DType) -> ModelFile {
    // Wide enough for blocks of 256, narrow enough to be quick.
    let tiny = TinyModel { seed, matrices, hidden: 256, ffn: 256, ..TinyModel::of(family) };
    let tiny = TinyModel { heads: 8, kv_heads: 2, head_dim: 32, ..tiny };
    let directory = tempfile::tempdir().unwrap();
    tiny.write_gguf(&directory.path().join("tiny.gguf")).unwrap()
}

/// Runs random schedules on `models`, which must agree to the bit; the first computes every
/// sequence alone as well.
fn check(models: &mut [Model], cases: [u32; 2], what: &str) {
    let cases = Extent::from_env().pick(cases[0], cases[1]);
    let models = RefCell::new(models);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, random);
    let result = runner.run(&schedules(), |schedule| {
        let mut models = models.borrow_mut();
        let expected = alone(&mut models[0], &schedule);
        for model in models.iter_mut() {
            let got = run(model, &schedule);
            for (index, (got, expected)) in got.iter().zip(&expected).enumerate() {
                let off = support::difference(got, expected);
                let name = &model.device().name;
                prop_assert!(got == expected, "{name} {what} sequence {index}: off by {off}");
            }
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

const KINDS: [(Family, DType); 4] = [
    (Family::Llama, DType::Q4_K),
    (Family::Mistral, DType::Q4_1),
    (Family::Qwen2, DType::Q8_0),
    (Family::Qwen3, DType::F16),
];

fn check_device(device: &str) {
    assert!(DEVICES.contains(&device) && is_exact(device));
    for (seed, (family, matrices)) in (1..).zip(KINDS) {
        let file = tiny(seed, family, matrices);
        let mut models = [2, 1].map(|threads: usize| {
            load_with(&file, device, PAGES as usize, threads, IsaChoice::Auto)
        });
        let cases = if device == "wgpu" { CASES_ON_GRAPHICS } else { CASES };
        check(&mut models, cases, &format!("{family} {matrices:?}"));
    }
}

#[testbed::test]
fn the_reference_gives_the_same_bits_in_any_schedule() {
    check_device("reference");
}

#[testbed::test]
fn the_cpu_gives_the_same_bits_in_any_schedule() {
    check_device("cpu");
}

#[testbed::test]
fn the_cpu_in_sixteen_bits_gives_the_same_bits_in_any_schedule() {
    check_device("cpu int16");
}

#[testbed::test]
fn graphics_give_the_same_bits_in_any_schedule() {
    check_device("wgpu");
}

#[testbed::test]
fn every_instruction_set_gives_the_same_bits() {
    for (seed, (family, matrices)) in (11..).zip(KINDS) {
        let file = tiny(seed, family, matrices);
        for device in ["cpu", "cpu int16"] {
            let isas = kernels::Isa::ALL.into_iter().filter(|isa| isa.is_available());
            let mut models: Vec<Model> = isas
                .map(|isa| {
                    println!("instructions: {isa}");
                    load_with(&file, device, PAGES as usize, 2, IsaChoice::Only(isa))
                })
                .collect();
            check(&mut models, CASES, &format!("{device} {family} {matrices:?}"));
        }
    }
}
