//! Duration of a decision with a thousand workers: printed, never judged.

#![allow(clippy::disallowed_methods, reason = "this one measures, and decides nothing by it")]

use std::collections::BTreeSet;
use std::time::Instant;

use protocol::{Role, Speed, StepCost};
use scheduling::route::{Disaggregate, Need, WorkerView, place};

const COST: StepCost =
    StepCost { step_us: 900.0, item_us: 0.0, pair_us: 0.01, error: 0.1, steps: 100 };

#[test]
fn a_decision_among_a_thousand_workers_looks_at_each_once() {
    let views: Vec<WorkerView> = (0..1_000_u32)
        .map(|index| WorkerView {
            worker: format!("worker-{index:04}").parse().unwrap(),
            role: if index % 2 == 0 { Role::Prefill } else { Role::Decode },
            ready: true,
            context_tokens: 8_192,
            step_tokens: 256,
            prefill_share: 0.5,
            queued_sequences: index % 7,
            queued_tokens: u64::from(index * 37 % 4_000),
            queued_pairs: u64::from(index * 37_000),
            queued_since_ms: 0,
            running_sequences: index * 13 % 32,
            running_tokens: u64::from(index * 1_000),
            sequences_max: 32,
            pages_total: 1_024,
            pages_open: 1_024,
            speed: Speed {
                prefill: StepCost { item_us: 80.0, ..COST },
                decode: StepCost { item_us: 300.0, ..COST },
            },
        })
        .collect();
    let need = Need { tokens: 700, cached_tokens: 0, output_tokens: 128 };
    let rounds = 1_000;
    let start = Instant::now();
    for _ in 0..rounds {
        let placement = place(&need, &views, &BTreeSet::new(), Disaggregate::Always, 0).unwrap();
        assert_eq!(placement.considered, 1_000);
    }
    println!("{:.1} us per decision", start.elapsed().as_secs_f64() * 1e6 / f64::from(rounds));
}
