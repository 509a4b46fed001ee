//! The result of one probe: does the rate meet the requirements, with certainty, without a growing
//! queue?

use super::growth::grows;
use crate::measure::wilson::wilson_of;
use crate::report::Report;
use crate::report::samples::Samples;
use crate::report::search::{Attained, Judgement, Probe, Requirement};

/// Number of batches for the correlation of neighboring requests.
const BATCHES: usize = 20;

/// Evaluates a run at `rate`. `overloaded` is true for a run that ended early because of a growing
/// queue.
pub fn judge(rate: f64, report: &Report, asked: &[Requirement], overloaded: bool) -> Probe {
    let mut probe = of_samples(rate, &report.samples, asked);
    let ttft = &report.latency.ttft_response_ms;
    probe.ttft_ms = (ttft.quantiles.p50, ttft.quantiles.p99);
    // A run that ended on purpose is cut short; any other reason is a fault.
    let faults: Vec<String> = report
        .verdict
        .reasons
        .iter()
        .map(|reason| reason.finding.clone())
        .filter(|finding| !(overloaded && finding.starts_with("the run was cut short")))
        .collect();
    if !faults.is_empty() {
        (probe.judgement, probe.sure, probe.why) = (Judgement::Invalid, false, faults.join("; "));
    } else if overloaded {
        probe.judgement = Judgement::Missed;
        probe.sure = true;
        probe.why = "ended early: requests that wait for their first token grew without end".into();
    }
    probe
}

/// Evaluates samples in order of arrival.
pub fn of_samples(rate: f64, samples: &Samples, asked: &[Requirement]) -> Probe {
    let attained: Vec<Attained> = asked.iter().map(|r| attain(&r.misses(samples))).collect();
    let pairs = || asked.iter().zip(&attained);
    let surely_held = pairs().all(|(r, a)| a.low >= r.needed);
    let surely_missed = pairs().find(|(r, a)| a.high < r.needed);
    let missed = pairs().find(|(r, a)| a.part < r.needed);
    let queue = grows(&samples.ttft_ms.iter().flatten().copied().collect::<Vec<f64>>());
    let share = |(r, a): (&Requirement, &Attained)| {
        format!(
            "{r}: {:.2} % kept it ({:.2} to {:.2}), {:.2} % are needed",
            100.0 * a.part,
            100.0 * a.low,
            100.0 * a.high,
            100.0 * r.needed
        )
    };

    let (judgement, sure, why) = match (missed, queue) {
        _ if samples.at_ms.is_empty() => {
            (Judgement::Invalid, false, "no request was measured".to_owned())
        }
        (Some(miss), _) => {
            (Judgement::Missed, surely_missed.is_some(), share(surely_missed.unwrap_or(miss)))
        }
        (None, true) => {
            let why = "kept so far, but the time to first token grew from start to end";
            (Judgement::Missed, false, why.to_owned())
        }
        (None, false) => {
            let closest = pairs()
                .min_by(|(r, a), (s, b)| (a.part - r.needed).total_cmp(&(b.part - s.needed)));
            (Judgement::Held, surely_held, closest.map_or_else(String::new, share))
        }
    };
    Probe {
        rate,
        requests: samples.at_ms.len(),
        judgement,
        sure,
        confirming: false,
        attained,
        ttft_ms: (None, None),
        why,
    }
}

/// Computes the share of requests without a miss, and its interval. Neighboring requests of a queue
/// are correlated, so batch means give the number of independent ones.
fn attain(misses: &[bool]) -> Attained {
    let n = misses.len();
    let count = |part: &[bool]| part.iter().filter(|miss| **miss).count() as f64;
    let rate = if n == 0 { 1.0 } else { count(misses) / n as f64 };
    let mut worth = n as f64;
    let size = n / BATCHES;
    if size >= 5 && rate > 0.0 && rate < 1.0 {
        let means: Vec<f64> =
            misses.chunks_exact(size).map(|batch| count(batch) / size as f64).collect();
        let center = means.iter().sum::<f64>() / means.len() as f64;
        let spread = means.iter().map(|m| (m - center).powi(2)).sum::<f64>();
        let of_batches = spread / (means.len() - 1) as f64 / means.len() as f64;
        let of_alone = rate * (1.0 - rate) / n as f64;
        worth = n as f64 / (of_batches / of_alone).max(1.0);
    }
    let (low, high) = wilson_of(1.0 - rate, worth);
    Attained { part: 1.0 - rate, low, high }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_that_share_their_fate_are_worth_less() {
        let spread: Vec<bool> = (0..2000).map(|i| i % 50 == 0).collect();
        let mut bunched = vec![false; 2000];
        bunched[700..740].fill(true);
        let (spread, bunched) = (attain(&spread), attain(&bunched));
        assert_eq!((spread.part, bunched.part), (0.98, 0.98));
        assert!(bunched.high - bunched.low > 2.0 * (spread.high - spread.low), "{bunched:?}");
        assert_eq!(attain(&[]).part, 0.0);
    }

    #[test]
    fn few_requests_never_surely_hold_a_high_percentile() {
        let asked = Requirement::all(&["ttft_p99=100ms".parse().unwrap()], None);
        let samples = |n: usize, ttft: f64| Samples {
            at_ms: vec![0.0; n],
            ttft_ms: vec![Some(ttft); n],
            tpot_ms: vec![None; n],
            e2e_ms: vec![Some(ttft); n],
            failed: vec![false; n],
        };
        let few = of_samples(1.0, &samples(100, 50.0), &asked);
        assert_eq!((few.judgement, few.sure), (Judgement::Held, false));
        assert_eq!(asked[0].least_requests(), 400);
        let many = of_samples(1.0, &samples(400, 50.0), &asked);
        assert_eq!((many.judgement, many.sure), (Judgement::Held, true));
        let bad = of_samples(1.0, &samples(400, 150.0), &asked);
        assert_eq!((bad.judgement, bad.sure), (Judgement::Missed, true));
        assert_eq!(of_samples(1.0, &samples(0, 1.0), &asked).judgement, Judgement::Invalid);
    }
}
