//! The search for the highest rate that meets its SLOs, over the rate of an open loop, never over
//! concurrency.

pub mod goal;
pub mod growth;
pub mod judge;
pub mod machine;
#[cfg(test)]
mod queue;
pub mod shell;

#[cfg(test)]
mod tests {
    use super::judge::of_samples;
    use super::machine::{Step, interval, next};
    use super::queue::{Queue, Service};
    use crate::report::samples::Samples;
    use crate::report::search::{Outcome, Probe, Requirement, Space};

    /// A whole search on a queue; each probe has its own arrivals.
    fn search(queue: Queue, asked: &[Requirement], seed: u64) -> (Outcome, Vec<Probe>) {
        let top = 0.98 * queue.capacity();
        let space = Space {
            start: top / 8.0,
            lowest: top / 64.0,
            highest: top,
            precision: 0.05,
            probes: 40,
        };
        let mut probes: Vec<Probe> = Vec::new();
        loop {
            let (rate, confirming) = match next(&space, &probes) {
                Step::Try(rate) => (rate, false),
                Step::Confirm(rate) => (rate, true),
                Step::Done(outcome) => return (outcome, probes),
            };
            let requests = if confirming { 8000 } else { 4000 };
            let served = queue.run(rate, requests, seed * 1000 + probes.len() as u64);
            let mut probe = of_samples(rate, &samples(&served), asked);
            probe.confirming = confirming;
            probes.push(probe);
        }
    }

    /// The first tenth is left out as warm-up.
    fn samples(served: &[(f64, f64, f64)]) -> Samples {
        let served = &served[served.len() / 10..];
        let ms = |of: fn(&(f64, f64, f64)) -> f64| -> Vec<Option<f64>> {
            served.iter().map(|s| Some(of(s) * 1e3)).collect()
        };
        Samples {
            at_ms: served.iter().map(|s| s.0 * 1e3).collect(),
            ttft_ms: ms(|s| s.1 + s.2),
            tpot_ms: vec![None; served.len()],
            e2e_ms: ms(|s| s.1 + s.2),
            failed: vec![false; served.len()],
        }
    }

    fn asked(bound: &str) -> Vec<Requirement> {
        Requirement::all(&[bound.parse().unwrap()], None)
    }

    #[test]
    fn the_capacity_of_a_known_queue_lies_in_the_interval() {
        // M/M/1: the time in the system is exponential with rate 1/s − λ, so that the 95th
        // percentile is 1 s at λ = 20 − ln 20.
        let queue = Queue { servers: 1, service: Service::Exponential, mean_s: 0.05 };
        let truth = 20.0 - 20.0_f64.ln();
        let mut inside = 0;
        for seed in 1..=20 {
            let (outcome, probes) = search(queue, &asked("ttft_p95=1s"), seed);
            let Outcome::Found { rate, .. } = outcome else { panic!("{outcome:?}") };
            assert!((rate / truth - 1.0).abs() < 0.15, "seed {seed}: {rate} of {truth}");
            let (low, high) = interval(&probes);
            let held = low.is_some_and(|low| low <= truth) && high.is_none_or(|high| truth <= high);
            inside += usize::from(held);
        }
        assert!(inside >= 18, "{inside} of 20");
    }

    #[test]
    fn several_servers_of_constant_service_are_found_too() {
        // M/D/4 has no short formula, so long runs of the model give its capacity.
        let queue = Queue { servers: 4, service: Service::Constant, mean_s: 0.2 };
        let asked = asked("ttft_p90=400ms");

        let (mut low, mut high) = (10.0, 20.0);
        for _ in 0..12 {
            let middle = f64::midpoint(low, high);
            let long = queue.run(middle, 400_000, 77);
            let kept = of_samples(middle, &samples(&long), &asked).attained[0].part;
            if kept >= 0.9 { low = middle } else { high = middle }
        }
        let mut inside = 0;
        for seed in 1..=10 {
            let (outcome, probes) = search(queue, &asked, seed);
            let Outcome::Found { rate, .. } = outcome else { panic!("{outcome:?}") };
            assert!((rate / low - 1.0).abs() < 0.1, "seed {seed}: {rate} of {low}");
            let (from, to) = interval(&probes);
            inside += usize::from(from.is_some_and(|f| f <= low) && to.is_none_or(|to| low <= to));
        }
        assert!(inside >= 9, "{inside} of 10");
    }

    #[test]
    fn what_cannot_be_kept_at_any_rate_is_said_so() {
        let queue = Queue { servers: 1, service: Service::Constant, mean_s: 0.05 };
        let (outcome, _) = search(queue, &asked("ttft_p95=40ms"), 1);
        assert!(matches!(outcome, Outcome::MissedAtLowest { .. }), "{outcome:?}");
        let (outcome, _) = search(queue, &asked("ttft_p50=1h"), 1);
        assert!(matches!(outcome, Outcome::HeldAtHighest { .. }), "{outcome:?}");
    }
}
