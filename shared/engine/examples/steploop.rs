//! Measures the cost of a step beside its model: `cargo run --release -p engine --example steploop`.
//!
//! Sixteen sequences decode with a model that costs nothing; the rows are the ways of choosing.

#![allow(clippy::print_stdout, reason = "an example reports on stdout")]
#![allow(clippy::unwrap_used, reason = "an example may end with a panic")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use chassis::clock::now_ms;
use engine::compute::ComputeError;
use engine::stepper::Ends;
use engine::{Compute, Iteration, SamplingState, StepEvent, StepLoop};
use model::{BatchSequence, StepOutput, Wanted};
use protocol::{
    Attempt, FileDigest, ModelFingerprint, RequestId, RequestKey, Sampling, Scope, Stopping,
};
use scheduling::planner::{Limits, Planner};
use scheduling::sequence::{NewSequence, Part};

const BATCH: u128 = 16;
const PROMPT: usize = 256;
const TOKENS: u32 = 2048;
const VOCABULARY: usize = 49_152;

/// Answers from a prepared row of logits.
struct Free {
    logits: Vec<f32>,
    ranked: Vec<(u32, f32)>,
    /// Time spent here, which a real model spends too, on the device.
    inside: Duration,
}

/// Much like a language model's: a broad bell, and a few tokens far above it.
fn logit(id: u32) -> f32 {
    let parts = (1..5).map(|part| (id + 1).wrapping_mul(2_654_435_761u32.wrapping_mul(part)) >> 8);
    let bell = parts.map(|part| part as f32 / (1 << 24) as f32 - 0.5).sum::<f32>() * 4.0;
    let peak = if id.is_multiple_of(2_000) { 15.0 - (id / 2_000) as f32 / 3.0 } else { 0.0 };
    bell + peak
}

impl Free {
    fn new() -> Self {
        let logits: Vec<f32> = (0..VOCABULARY as u32).map(logit).collect();
        let ranked = model::sampling::top(&logits, 128);
        Self { logits, ranked, inside: Duration::ZERO }
    }
}

impl Compute for Free {
    fn forward(
        &mut self,
        batch: &[BatchSequence<'_>],
        out: &mut StepOutput,
    ) -> Result<(), ComputeError> {
        let began = Instant::now();
        out.clear(VOCABULARY);
        for row in batch {
            match row.logits {
                Wanted::None => {}
                Wanted::Top(count) => out.push_top(&self.ranked[..count]),
                Wanted::Last | Wanted::All => out.push_whole().copy_from_slice(&self.logits),
            }
            out.end_sequence(usize::from(row.logits != Wanted::None));
        }
        self.inside += began.elapsed();
        Ok(())
    }

    fn export_block(&mut self, _: u32, _: u32) -> Result<Vec<u8>, ComputeError> {
        Ok(Vec::new())
    }

    fn import_block(&mut self, _: u32, _: &[u8]) -> Result<(), ComputeError> {
        Ok(())
    }
}

fn full_batch(sampling: &Sampling) -> (StepLoop<Free>, Ends) {
    let pages = 16 * (PROMPT as u32 + TOKENS).div_ceil(16) + 16;
    let limits = Limits {
        context_tokens: 8192,
        step_tokens: 8192,
        prefill_share: 1.0,
        sequences_max: BATCH as usize,
        queue_max: 64,
        lease_ms: 600_000,
    };
    let planner = Planner::new(limits, ModelFingerprint::new(FileDigest([1; 32]), "free"), pages);
    let (step_loop, ends) = StepLoop::new(Free::new(), planner, 4096);
    for id in 0..BATCH {
        let new = NewSequence {
            key: RequestKey { request: RequestId(id), attempt: Attempt(0) },
            part: Part::Whole,
            // Lengths apart, so that blocks fill up in different steps.
            prompt: vec![id as u32; PROMPT + id as usize],
            output: Vec::new(),
            stopping: Stopping { max_tokens: TOKENS, min_tokens: 0, stop_tokens: Vec::new() },
            scope: Scope::shared(),
            score_prompt: false,
            deadline_ms: u64::MAX,
        };
        ends.handle
            .submit(new, SamplingState::new(sampling.clone(), None, None), now_ms())
            .unwrap();
    }
    (step_loop, ends)
}

/// Steps until the end; gives the median time and the mean allocations of a full step, the model's
/// left out.
fn measure(sampling: &Sampling) -> (Duration, f64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (mut step_loop, Ends { handle, mut steps, mut blocks }) = full_batch(sampling);
    let (mut times, mut allocations) = (Vec::new(), 0);
    for iteration in 0.. {
        let before = step_loop.compute().inside;
        let began = Instant::now();
        let mut outcome = Iteration::Idle;
        let info = allocation_counter::measure(|| outcome = step_loop.iterate());
        let took = began.elapsed();
        if iteration > 1 && outcome == Iteration::Idle {
            break;
        }
        let mut tokens = 0;
        while let Ok(mut events) = steps.try_recv() {
            for event in events.drain() {
                match event {
                    StepEvent::Admitted { admitted, .. } => {
                        runtime.block_on(handle.fetched(admitted.key, 0)).unwrap();
                    }
                    event => {
                        tokens += usize::from(matches!(black_box(event), StepEvent::Token { .. }))
                    }
                }
            }
        }
        while blocks.try_recv().is_ok() {}
        if tokens == BATCH as usize && iteration > 100 {
            times.push(took.saturating_sub(step_loop.compute().inside - before));
            allocations += info.count_total;
        }
    }
    times.sort_unstable();
    (times[times.len() / 2], allocations as f64 / times.len() as f64)
}

fn main() {
    let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
    let cases = [
        ("greedy", greedy),
        ("top_k 40", Sampling { top_k: 40, ..Sampling::default() }),
        ("temperature 1", Sampling::default()),
        ("top_p 0.9", Sampling { top_p: 0.9, ..Sampling::default() }),
        ("frequency penalty", Sampling { frequency_penalty: 0.5, ..Sampling::default() }),
    ];
    println!("batch {BATCH}, vocabulary {VOCABULARY}; one block fills up per step on average");
    println!("{:<20} {:>10} {:>10} {:>12}", "choice", "us/step", "us/row", "allocations");
    for (name, sampling) in cases {
        let (time, allocations) = measure(&sampling);
        let us = time.as_secs_f64() * 1e6;
        println!("{name:<20} {us:>10.1} {:>10.2} {allocations:>12.2}", us / BATCH as f64);
    }
}
