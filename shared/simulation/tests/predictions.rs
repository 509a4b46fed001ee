//! Predicted against actual time to first token, over whole clusters under seeded load.

use scheduling::route::Disaggregate;
use simulation::{Cluster, Costs, End, Load, Prediction};

/// A long prompt takes a second or more, and attention makes up half of that.
const COSTS: Costs = Costs {
    step_us: 2_000.0,
    prefill_token_us: 300.0,
    decode_sequence_us: 500.0,
    pair_us: 0.1,
    noise: 0.15,
};

fn run(seed: u64, policy: Disaggregate, rate: f64, shared: f64) -> End {
    let cluster = Cluster::seeded(seed).pages(4_096).context(4_096).costs(COSTS).policy(policy);
    let load = Load { prompt_tokens_max: 3_000, shared, ..Load::poisson(rate, 60_000) };
    let end = cluster.prefill(2).decode(2).offer(load).run_until_quiet();
    assert_eq!(end.lost() + end.failed(), 0, "seed {seed}");
    end
}

/// Returns the prediction errors, as shares of the actual time: the median and the 95th percentile.
fn errors(predictions: impl Iterator<Item = Prediction>) -> (f64, f64) {
    let errors = predictions.map(|one| (one.predicted_ms - one.actual_ms).abs() / one.actual_ms);
    let mut all: Vec<f64> = errors.collect();
    all.sort_by(f64::total_cmp);
    (all[all.len() / 2], all[all.len() * 95 / 100])
}

#[test]
fn first_tokens_come_when_they_were_predicted() {
    for (case, policy, rate, shared, median_max, p95_max) in [
        ("apart, little to do", Disaggregate::Always, 0.5, 0.0, 0.1, 0.4),
        ("apart, much to do", Disaggregate::Always, 2.0, 0.0, 0.1, 0.4),
        ("by price, much to do", Disaggregate::Auto, 2.0, 0.0, 0.1, 0.5),
        ("together, much to do", Disaggregate::Never, 2.0, 0.0, 0.1, 0.5),
        ("apart, half of the prompts begin as another", Disaggregate::Always, 2.0, 0.5, 0.1, 1.5),
    ] {
        let mut all = Vec::new();
        for seed in 0..10 {
            // The first ones are predicted before anything was measured.
            all.extend(run(seed, policy, rate, shared).predictions.into_iter().skip(10));
        }
        let (median, p95) = errors(all.iter().copied());
        let waits = all.iter().filter(|one| one.actual_ms > 3_000.0).count();
        println!(
            "{case}: off by {median:.3} (median), {p95:.3} (p95) of {} first tokens, {waits} of \
             which took more than 3 s",
            all.len()
        );
        assert!(all.len() > 100, "{case}");
        assert!(median < median_max && p95 < p95_max, "{case}: {median}, {p95}");
    }
}
