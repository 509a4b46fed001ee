//! Predicted against felt time to first token, over whole clusters under seeded load.

use scheduling::route::Disaggregate;
use simulation::{Cluster, Costs, End, Foresight, Load};

/// A long prompt takes a second or more, and attention makes up half of that.
const COSTS: Costs = Costs {
    step_us: 2_000.0,
    prefill_token_us: 300.0,
    decode_sequence_us: 500.0,
    pair_us: 0.1,
    noise: 0.15,
};

fn run(seed: u64, policy: Disaggregate, (rate, shared): (f64, f64)) -> End {
    let cluster = Cluster::seeded(seed).pages(4_096).context(4_096).costs(COSTS).policy(policy);
    let load = Load { prompt_tokens_max: 3_000, shared, ..Load::poisson(rate, 60_000) };
    let end = cluster.prefill(2).decode(2).offer(load).run_until_quiet();
    assert_eq!(end.lost() + end.failed(), 0, "seed {seed}");
    end
}

/// How far the predictions were off, as shares of what was felt: the median and one in twenty.
fn errors(foreseen: impl Iterator<Item = Foresight>) -> (f64, f64) {
    let off = |one: Foresight| (one.predicted_ms - one.felt_ms).abs() / one.felt_ms;
    let mut all: Vec<f64> = foreseen.map(off).collect();
    all.sort_by(f64::total_cmp);
    (all[all.len() / 2], all[all.len() * 95 / 100])
}

#[test]
fn first_tokens_come_when_they_were_predicted() {
    for (what, policy, load, median_most, p95_most) in [
        ("apart, little to do", Disaggregate::Always, (0.5, 0.0), 0.1, 0.4),
        ("apart, much to do", Disaggregate::Always, (2.0, 0.0), 0.1, 0.4),
        ("by price, much to do", Disaggregate::Auto, (2.0, 0.0), 0.1, 0.5),
        ("together, much to do", Disaggregate::Never, (2.0, 0.0), 0.1, 0.5),
        ("apart, half of the prompts begin as another", Disaggregate::Always, (2.0, 0.5), 0.1, 1.5),
    ] {
        let mut all = Vec::new();
        for seed in 0..10 {
            // The first ones are predicted before anything was measured.
            all.extend(run(seed, policy, load).foreseen.into_iter().skip(10));
        }
        let (median, p95) = errors(all.iter().copied());
        let waits = all.iter().filter(|one| 3_000.0 < one.felt_ms).count();
        println!(
            "{what}: off by {median:.3} (median), {p95:.3} (p95) of {} first tokens, {waits} of \
             which took more than 3 s",
            all.len()
        );
        assert!(100 < all.len(), "{what}");
        assert!(median < median_most && p95 < p95_most, "{what}: {median}, {p95}");
    }
}
