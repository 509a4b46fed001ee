//! The load of one run, made of a trace: window, dequantize, scale, speed up.

use super::edit::{self, EditError};
use super::quantum::{Dequantize, Quantum, quantum_of};
use super::trace::{BlockSizes, Record, Trace};
use crate::units::Window;

/// Options for replaying a trace.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Window of trace time to replay.
    pub window: Option<Window>,
    /// Trace seconds per second of the replay.
    pub speedup: f64,
    /// Divisor of lengths and block sizes.
    pub scale: u32,
    /// Treatment of coarse time stamps.
    pub dequantize: Dequantize,
    /// Seed of the Poisson spread.
    pub seed: u64,
}

/// A trace that is ready for a run.
#[derive(Clone, Debug)]
pub struct Shaped {
    /// Requests. Times count from the start of the window, after the speed-up.
    pub records: Vec<Record>,
    /// Tokens per block after scaling.
    pub sizes: BlockSizes,
    /// Grid of the original time stamps, if they lie on one.
    pub quantum: Option<Quantum>,
}

/// Applies `shape` to `trace`. The window refers to trace time, before the speed-up.
pub fn shape(trace: &Trace, shape: &Shape) -> Result<Shaped, EditError> {
    if !(shape.speedup.is_finite() && shape.speedup > 0.0) {
        return Err(EditError::Speedup(shape.speedup));
    }
    let quantum = quantum_of(trace);
    let mut trace = trace.clone();
    if shape.dequantize != Dequantize::None {
        edit::dequantize(&mut trace, shape.dequantize, shape.seed)?;
    }
    if let Some(window) = shape.window {
        edit::cut(&mut trace, window)?;
    }
    edit::scale(&mut trace, shape.scale.max(1))?;
    let speed_up = |ns: i64| (ns as f64 / shape.speedup).round() as i64;
    for record in &mut trace.records {
        record.at_ns = speed_up(record.at_ns);
        record.think_ns = speed_up(record.think_ns);
    }
    Ok(Shaped { records: trace.records, sizes: trace.sizes, quantum })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prefix::InfiniteCache;
    use crate::quantum::find_quantum;
    use proptest::prelude::*;

    fn trace(records: Vec<Record>) -> Trace {
        Trace::synthetic(BlockSizes::Uniform(512), records, Vec::new())
    }

    fn plain() -> Shape {
        let dequantize = Dequantize::None;
        Shape { window: None, speedup: 1.0, scale: 1, dequantize, seed: 1 }
    }

    fn coarse() -> Trace {
        let records = (0..200).map(|i| Record {
            at_ns: (i / 10) * 3_000_000_000,
            input_tokens: 1,
            output_tokens: 1,
            blocks: vec![0],
            ..Record::default()
        });
        trace(records.collect())
    }

    #[test]
    fn a_window_is_cut_by_arrival_and_starts_at_zero() {
        let window = Some("3s..9s".parse().unwrap());
        let shaped = shape(&coarse(), &Shape { window, speedup: 2.0, ..plain() }).unwrap();
        assert_eq!(shaped.records.len(), 20);
        assert_eq!(shaped.records[0].at_ns, 0);
        assert_eq!(shaped.records[19].at_ns, 1_500_000_000);
        let window = Some("300s..".parse().unwrap());
        let err = shape(&coarse(), &Shape { window, ..plain() }).unwrap_err();
        assert_eq!(
            err.to_string(),
            "no request arrives in the window 300s..; the trace spans 0s..57s"
        );
    }

    #[test]
    fn coarse_times_are_found_and_spread_in_order_inside_their_step() {
        let trace = coarse();
        let quantum = shape(&trace, &plain()).unwrap().quantum.unwrap();
        assert_eq!(quantum, Quantum { step_ns: 3_000_000_000, largest_burst: 10 });
        for dequantize in [Dequantize::Uniform, Dequantize::Poisson] {
            let asked = Shape { dequantize, ..plain() };
            let times = |seed| -> Vec<i64> {
                let shaped = shape(&trace, &Shape { seed, ..asked }).unwrap();
                shaped.records.iter().map(|r| r.at_ns).collect()
            };
            assert_eq!(times(1), times(1));
            assert!(times(1).is_sorted());
            for (before, after) in trace.records.iter().zip(times(1)) {
                assert!((before.at_ns..before.at_ns + 3_000_000_000).contains(&after));
            }
            assert_eq!(find_quantum(&times(1)), None);
            assert_eq!(times(1) == times(2), dequantize == Dequantize::Uniform);
        }
    }

    #[test]
    fn a_trace_without_a_grid_is_not_spread() {
        let mut trace = coarse();
        for (i, record) in trace.records.iter_mut().enumerate() {
            record.at_ns = (i * i) as i64 * 1_000_003;
        }
        let asked = Shape { dequantize: Dequantize::Uniform, ..plain() };
        assert!(matches!(shape(&trace, &asked), Err(EditError::NoQuantum)));
        assert!(matches!(
            shape(&trace, &Shape { scale: 3, ..plain() }),
            Err(EditError::Scale { scale: 3, block_tokens: 512 })
        ));
        assert!(shape(&trace, &Shape { speedup: 0.0, ..plain() }).is_err());
    }

    proptest! {
        #[test]
        fn scaling_keeps_every_block_and_the_ideal_hits(
            lengths in prop::collection::vec((1_u32..20_000, 0_u32..3), 1..40),
            power in 0_u32..9,
        ) {
            // Every prompt continues one of three families as far as it reaches.
            let records = lengths.iter().enumerate().map(|(i, &(input_tokens, family))| {
                let n = input_tokens.div_ceil(512);
                let shared = n.saturating_sub(1);
                let mut blocks: Vec<u32> = (0..shared).map(|b| family * 100 + b).collect();
                blocks.push(1000 + i as u32);
                Record { at_ns: i as i64, input_tokens, output_tokens: 1, blocks, ..Record::default() }
            });
            let whole = trace(records.collect());
            let scale = 1 << power;
            let shaped = shape(&whole, &Shape { scale, ..plain() }).unwrap();
            let (mut before, mut after) = (InfiniteCache::default(), InfiniteCache::default());
            for (w, s) in whole.records.iter().zip(&shaped.records) {
                let size = shaped.sizes.uniform().unwrap();
                prop_assert_eq!(s.input_tokens.div_ceil(size) as usize, s.blocks.len());
                let hit_before = before.admit(whole.sizes.split(w));
                let hit_after = after.admit(shaped.sizes.split(s));
                prop_assert_eq!(hit_before.blocks, hit_after.blocks);
                prop_assert_eq!(hit_before.tokens, hit_after.tokens * u64::from(scale));
            }
        }
    }
}
