//! Routing alone: the time of one decision among many workers.

use std::collections::BTreeSet;
use std::hint::black_box;
use std::time::Instant;

use anyhow::Context as _;
use protocol::{Role, Speed, StepCost};
use scheduling::route::{Disaggregate, Need, WorkerView, place};

use crate::figures::median;

/// Numbers of workers to choose from.
pub(super) const WORKERS: [usize; 3] = [10, 100, 1_000];
/// Decisions of one measurement.
const DECISIONS: u32 = 500;
/// Measurements, of which the median counts.
const TRIES: usize = 15;

/// Measures the microseconds of one decision, by number of workers.
pub(super) fn measure() -> anyhow::Result<Vec<(usize, f64)>> {
    WORKERS.iter().map(|&workers| Ok((workers, decision_us(workers)?))).collect()
}

fn decision_us(workers: usize) -> anyhow::Result<f64> {
    let views = (0..workers).map(view).collect::<anyhow::Result<Vec<_>>>()?;
    let need = Need { tokens: 110, cached_tokens: 0, output_tokens: 16 };
    let avoid = BTreeSet::new();
    let mut tries = Vec::with_capacity(TRIES);
    for _ in 0..TRIES {
        let started = Instant::now();
        for _ in 0..DECISIONS {
            black_box(place(black_box(&need), &views, &avoid, Disaggregate::Always, 0))?;
        }
        tries.push(started.elapsed().as_secs_f64() * 1e6 / f64::from(DECISIONS));
    }
    Ok(median(tries))
}

fn cost(step_us: f32, item_us: f32) -> StepCost {
    StepCost { step_us, item_us, pair_us: 0.01, error: 0.1, steps: 100 }
}

/// Returns worker `number` of a fleet with half of each role and different loads and speeds.
fn view(number: usize) -> anyhow::Result<WorkerView> {
    let role = if number.is_multiple_of(2) { Role::Prefill } else { Role::Decode };
    let mixed = (number * 7_919) % 1_009;
    Ok(WorkerView {
        worker: format!("{}-{number:04}", role.as_str()).parse().context("name a worker")?,
        role,
        ready: true,
        context_tokens: 32_768,
        step_tokens: 256,
        prefill_share: if role == Role::Prefill { 1.0 } else { 0.0 },
        queued_sequences: (mixed % 7) as u32,
        queued_tokens: (mixed % 977) as u64,
        queued_pairs: (mixed % 977 * 300) as u64,
        queued_since_ms: 0,
        running_sequences: (mixed % 31) as u32,
        running_tokens: (mixed % 31 * 500) as u64,
        sequences_max: 32,
        pages_total: 4_096,
        pages_open: 2_048 + mixed as u32,
        speed: Speed {
            prefill: cost(0.0, 300.0 + (mixed % 97) as f32),
            decode: cost(900.0 + mixed as f32, 500.0 + (mixed % 89) as f32),
        },
    })
}
