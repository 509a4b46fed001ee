//! The verdict on a run: do its figures describe the server or the generator?

use std::fmt;

use serde::{Deserialize, Serialize};
use traces::units::{NS_PER_MS, Nanos};

use super::{ErrorCount, Latency, ScheduleReport};

/// Share of the offered rate that must be achieved.
const LEAST_ACHIEVED: f64 = 0.99;
/// Share of the machine's cores that the client may use.
const MOST_CPU: f64 = 0.8;

/// A reason for an invalid run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// Finding, with its numbers.
    pub finding: String,
    /// Advice.
    pub advice: String,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.finding, self.advice)
    }
}

/// Verdict on a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// True if the figures describe the server, not the generator.
    pub valid: bool,
    /// Reasons against it.
    pub reasons: Vec<Reason>,
    /// Allowed p99 lag.
    pub lag_limit_us: i64,
}

/// Input of the verdict.
pub struct Facts<'a> {
    /// Adherence to the schedule.
    pub schedule: &'a ScheduleReport,
    /// Requests with a complete response.
    pub completed: usize,
    /// Failures by class.
    pub errors: &'a [ErrorCount],
    /// Allowed p99 lag.
    pub lag_limit: Nanos,
    /// True if requests may be dropped.
    pub drops_allowed: bool,
    /// Reason for cutting the run short, if it was.
    pub cut_short: Option<&'a str>,
    /// Cores that this process kept busy.
    pub cpu_cores: Option<f64>,
    /// Share of the time that the busiest sending thread was on a CPU.
    pub busiest_thread: Option<f64>,
    /// Share of the time that a sending thread was runnable without a CPU.
    pub starved: Option<f64>,
    /// True if the cool-down ended before the last measured request.
    pub cooldown_hit: bool,
}

/// Returns the larger of 1 ms and 1 % of the median time to first token.
pub fn default_lag_limit(latency: &Latency) -> Nanos {
    let part_ns = latency.ttft_service_ms.quantiles.p50.unwrap_or(0.0) * 0.01 * NS_PER_MS as f64;
    Nanos(NS_PER_MS.max(part_ns as i64))
}

/// Derives the verdict from `facts`.
pub fn judge(facts: &Facts<'_>) -> Verdict {
    let mut reasons = Vec::new();
    let mut found = |finding: String, advice: &str| {
        reasons.push(Reason { finding, advice: advice.to_owned() });
    };
    if let Some(reason) = facts.cut_short {
        found(format!("the run was cut short: {reason}"), "let it run to its end");
    }
    if facts.completed == 0 {
        let first = facts.errors.iter().max_by_key(|error| error.count);
        let cause = first.map_or_else(String::new, |error| {
            format!("; {} of them {}: {}", error.count, error.class, error.example)
        });
        found(
            format!("the server answered no request{cause}"),
            "there is nothing to measure until it does",
        );
    }
    let limit_ms = facts.lag_limit.0 as f64 / NS_PER_MS as f64;
    if let Some(p99) = facts.schedule.lag_ms.quantiles.p99.filter(|p99| *p99 > limit_ms) {
        let waited = facts.starved.filter(|part| *part >= 0.01).map_or_else(String::new, |part| {
            format!(", which was kept from a CPU for {:.0} % of the time", 100.0 * part)
        });
        found(
            format!("the generator was late: p99 lag {p99:.3} ms exceeds {limit_ms:.3} ms{waited}"),
            "offer less, give it a core of its own (taskset), or state another limit with \
             --lag-limit; loadgen calibrate says what this machine can do",
        );
    }
    let ScheduleReport { offered_rps, achieved_rps, .. } = facts.schedule;
    if *achieved_rps < LEAST_ACHIEVED * offered_rps {
        found(
            format!(
                "{achieved_rps:.3} of {offered_rps:.3} requests/s, {:.1} %, were sent while the \
                 schedule ran, at least {:.0} % are needed",
                100.0 * achieved_rps / offered_rps,
                100.0 * LEAST_ACHIEVED
            ),
            "raise or drop --max-inflight, or offer less",
        );
    }
    let of_class = |class: &str| facts.errors.iter().find(|e| e.class == class);
    if let Some(dropped) = of_class("dropped").filter(|_| !facts.drops_allowed) {
        found(
            format!("{} requests were dropped", dropped.count),
            "raise --max-inflight, or ask for drops with --on-full drop",
        );
    }
    if let Some(prompt) = of_class("prompt") {
        found(
            format!("{} prompts could not be made: {}", prompt.count, prompt.example),
            "give the model's own tokenizer with --vocab-tokenizer",
        );
    }
    reasons_of_cpu(facts, &mut found);
    if facts.cooldown_hit {
        found(
            "the load ended before the last measured request was over".to_owned(),
            "give a longer cool-down, or offer less",
        );
    }
    Verdict { valid: reasons.is_empty(), reasons, lag_limit_us: facts.lag_limit.0 / 1000 }
}

/// Adds reasons for a generator that was too busy to be on time.
fn reasons_of_cpu(facts: &Facts<'_>, found: &mut impl FnMut(String, &str)) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    if let Some(busy) = facts.cpu_cores.filter(|busy| *busy > MOST_CPU * cores) {
        found(
            format!(
                "the generator used {busy:.2} of its {cores} cores, at most {:.0} % keep it on time",
                100.0 * MOST_CPU
            ),
            "give it more cores, or a machine of its own",
        );
    }
    if let Some(busy) = facts.busiest_thread.filter(|busy| *busy > MOST_CPU) {
        found(
            format!(
                "the generator's busiest thread was on a CPU for {:.0} % of the time, at most \
                 {:.0} % keep it on time",
                100.0 * busy,
                100.0 * MOST_CPU
            ),
            "send with more --threads",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::intervals::Distribution;

    fn schedule(lag_ms: f64, achieved_rps: f64) -> ScheduleReport {
        ScheduleReport {
            offered_rps: 100.0,
            achieved_rps,
            lag_ms: Distribution::of(vec![lag_ms]),
            ..ScheduleReport::default()
        }
    }

    fn facts(schedule: &ScheduleReport) -> Facts<'_> {
        Facts {
            schedule,
            completed: 1,
            errors: &[],
            lag_limit: Nanos(NS_PER_MS),
            drops_allowed: false,
            cut_short: None,
            cpu_cores: Some(0.1),
            busiest_thread: Some(0.5),
            starved: None,
            cooldown_hit: false,
        }
    }

    #[test]
    fn each_fault_alone_makes_a_run_invalid() {
        let good = schedule(0.9, 99.0);
        assert!(judge(&facts(&good)).valid);
        let (late, slow) = (schedule(1.1, 100.0), schedule(0.0, 98.9));
        let dropped = |class: &str| {
            [ErrorCount { class: class.to_owned(), count: 3, example: String::new() }]
        };
        let (drops, prompts) = (dropped("dropped"), dropped("prompt"));
        for (bad, expected) in [
            (facts(&late), "p99 lag 1.100 ms exceeds 1.000 ms"),
            (facts(&slow), "98.900 of 100.000 requests/s, 98.9 %"),
            (Facts { errors: &drops, ..facts(&good) }, "3 requests were dropped"),
            (Facts { errors: &prompts, ..facts(&good) }, "3 prompts could not be made"),
            (Facts { cut_short: Some("Ctrl-C"), ..facts(&good) }, "cut short: Ctrl-C"),
            (Facts { cpu_cores: Some(1e6), ..facts(&good) }, "cores"),
            (Facts { busiest_thread: Some(0.81), ..facts(&good) }, "for 81 % of the time"),
            (Facts { cooldown_hit: true, ..facts(&good) }, "the load ended before"),
            (Facts { completed: 0, ..facts(&good) }, "the server answered no request"),
            (Facts { starved: Some(0.3), ..facts(&late) }, "kept from a CPU for 30 %"),
        ] {
            let verdict = judge(&bad);
            assert!(!verdict.valid && verdict.reasons.len() == 1, "{verdict:?}");
            assert!(verdict.reasons[0].finding.contains(expected), "{verdict:?}");
        }
        let allowed = Facts { errors: &drops, drops_allowed: true, ..facts(&good) };
        assert!(judge(&allowed).valid);
        assert!(judge(&Facts { lag_limit: Nanos(2 * NS_PER_MS), ..facts(&late) }).valid);
    }

    #[test]
    fn the_lag_limit_grows_with_the_time_to_first_token() {
        let with = |ttft_ms: f64| Latency {
            ttft_service_ms: Distribution::of(vec![ttft_ms]),
            ..Latency::default()
        };
        assert_eq!(default_lag_limit(&with(20.0)), Nanos(NS_PER_MS));
        assert_eq!(default_lag_limit(&with(500.0)), Nanos(5 * NS_PER_MS));
    }
}
