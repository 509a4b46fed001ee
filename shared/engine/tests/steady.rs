//! The cost of a step of sixteen decoding sequences beside its model: allocations and locks.

#![allow(clippy::unwrap_used, reason = "what helps a test may fail like a test")]

mod support;

use chassis::clock::now_ms;
use engine::compute::ComputeError;
use engine::stepper::Ends;
use engine::{Compute, Iteration, SamplingState, StepEvent, StepLoop};
use model::{BatchSequence, StepOutput, Wanted};
use protocol::Sampling;
use scheduling::planner::Limits;
use scheduling::sequence::Part;
use support::{LIMITS, VOCABULARY, key, planner, sequence};

const SEQUENCES: u128 = 16;
const PROMPT: usize = 20;

/// A model that repeats three tokens and costs nothing.
struct Free;

impl Compute for Free {
    fn forward(
        &mut self,
        batch: &[BatchSequence<'_>],
        out: &mut StepOutput,
    ) -> Result<(), ComputeError> {
        out.clear(VOCABULARY);
        for row in batch {
            match row.logits {
                Wanted::None => {
                    out.end_sequence(0);
                    continue;
                }
                Wanted::Top(count) => {
                    out.push_top(&[(7, 2.0), (8, 1.0), (9, 0.5)][..count.min(3)]);
                }
                Wanted::Last | Wanted::All => {
                    let logits = out.push_whole();
                    logits.fill(f32::NEG_INFINITY);
                    logits[7..10].copy_from_slice(&[2.0, 1.0, 0.5]);
                }
            }
            out.end_sequence(1);
        }
        Ok(())
    }

    fn export_block(&mut self, _: u32, _: u32) -> Result<Vec<u8>, ComputeError> {
        Ok(vec![0; 64])
    }

    fn import_block(&mut self, _: u32, _: &[u8]) -> Result<(), ComputeError> {
        Ok(())
    }
}

/// Counts over the decode steps of [`SEQUENCES`] sequences.
#[derive(Debug, Default)]
struct Counted {
    steady_steps: u64,
    steady_allocations: u64,
    sealing_steps: u64,
    sealing_allocations: u64,
    locks: u64,
}

fn decode(sampling: &Sampling) -> Counted {
    let limits = Limits { step_tokens: 512, sequences_max: SEQUENCES as usize, ..LIMITS };
    let (mut step_loop, Ends { handle, mut steps, mut blocks }) =
        StepLoop::new(Free, planner(limits, 512), 1024);
    for id in 0..SEQUENCES {
        let sampling_state = SamplingState::new(sampling.clone(), None, None);
        let new = sequence(id, Part::Whole, vec![id as u32 + 1; PROMPT], 230);
        handle.submit(new, sampling_state, now_ms()).unwrap();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut counted = Counted::default();
    let mut generated = 0;
    let mut published = handle.report();
    for iteration in 0.. {
        let locks = handle.lock_acquisitions();
        let mut outcome = Iteration::Idle;
        let allocations = allocation_counter::measure(|| outcome = step_loop.iterate()).count_total;
        counted.locks += handle.lock_acquisitions() - locks;
        let mut sealed = 0;
        while blocks.try_recv().is_ok() {
            sealed += 1;
        }
        let mut tokens = 0;
        while let Ok(mut events) = steps.try_recv() {
            for event in events.drain() {
                match event {
                    StepEvent::Admitted { admitted, .. } => {
                        runtime.block_on(handle.fetched(admitted.key, 0)).unwrap();
                    }
                    StepEvent::Token { .. } => tokens += 1,
                    StepEvent::Failed { refusal, .. } => panic!("{refusal}"),
                    StepEvent::Stepped(step) => panic!("no request is traced, but {step:?}"),
                }
            }
        }
        generated += tokens;
        if iteration > 1 && outcome == Iteration::Idle {
            break;
        }
        let report = handle.report();
        let housekeeping = !std::sync::Arc::ptr_eq(&report, &published);
        published = report;
        // The first steps grow what is kept from step to step.
        if iteration < 80 || tokens != SEQUENCES as usize || housekeeping {
            continue;
        }
        match sealed {
            0 => {
                counted.steady_steps += 1;
                counted.steady_allocations += allocations;
            }
            _ => {
                counted.sealing_steps += 1;
                counted.sealing_allocations += allocations;
            }
        }
    }
    assert_eq!(generated, 230 * SEQUENCES as usize);
    assert_eq!(step_loop.planner().pool_state().leased, 0);
    assert!(handle.renew(&[key(1)], now_ms()) == [key(1)], "it is over");
    counted
}

#[test]
fn a_steady_greedy_step_allocates_nothing_and_takes_no_lock() {
    let counted = decode(&Sampling { temperature: 0.0, ..Sampling::default() });
    println!("{counted:?}");
    assert!(counted.steady_steps > 100 && counted.sealing_steps > 0, "{counted:?}");
    assert_eq!(counted.steady_allocations, 0, "{counted:?}");
    assert_eq!(counted.locks, 0, "{counted:?}");
    // A block's bytes, their owner, the list that names it, a place in the pool's index.
    let per_block =
        counted.sealing_allocations as f64 / (counted.sealing_steps as f64 * SEQUENCES as f64);
    assert!(per_block < 6.0, "{per_block} allocations per sealed block");
}

#[test]
fn sampling_from_candidates_or_from_the_whole_row_allocates_nothing() {
    for top_k in [3, 0] {
        let counted = decode(&Sampling { top_k, seed: 5, ..Sampling::default() });
        assert!(counted.steady_steps > 100, "{counted:?}");
        assert_eq!(counted.steady_allocations, 0, "top_k {top_k}: {counted:?}");
    }
}

#[test]
fn the_loop_names_no_lock() {
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/stepper");
    let mut files = 0;
    for entry in std::fs::read_dir(source).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for word in ["Mutex", "RwLock", "Condvar", ".lock()"] {
            assert!(!text.contains(word), "{word} in the step loop");
        }
        files += 1;
    }
    assert!(files > 3, "the step loop's files have moved");
}
