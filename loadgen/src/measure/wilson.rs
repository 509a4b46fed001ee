//! Wilson's interval of a proportion.

/// Returns the 95 % Wilson score interval of `hits` in `trials`; `(0, 1)` without trials.
pub fn wilson(hits: usize, trials: usize) -> (f64, f64) {
    wilson_of(hits as f64 / trials.max(1) as f64, trials as f64)
}

/// Returns the 95 % Wilson score interval of a proportion `p` in `n` independent trials.
pub fn wilson_of(p: f64, n: f64) -> (f64, f64) {
    if n <= 0.0 {
        return (0.0, 1.0);
    }
    let z = 1.959_963_984_540_054;
    let center = p + z * z / (2.0 * n);
    let half = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z * z / n;
    (((center - half) / scale).max(0.0), ((center + half) / scale).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn wilson_matches_known_values() {
        // Newcombe (1998), 81 of 263 and 0 of 20.
        let (lo, hi) = wilson(81, 263);
        assert!((lo - 0.2553).abs() < 5e-5 && (hi - 0.3662).abs() < 5e-5, "{lo} {hi}");
        let (lo, hi) = wilson(0, 20);
        assert!(lo == 0.0 && (hi - 0.1611).abs() < 5e-5, "{lo} {hi}");
    }

    proptest! {
        #[test]
        fn the_interval_holds_the_proportion(trials in 1_usize..5000, part in 0.0..1.0_f64) {
            let hits = (trials as f64 * part) as usize;
            let (lo, hi) = wilson(hits, trials);
            let p = hits as f64 / trials as f64;
            prop_assert!(lo <= p + 1e-12 && p <= hi + 1e-12);
        }
    }
}
