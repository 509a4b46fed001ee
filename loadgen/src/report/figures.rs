//! The figures of a report, computed from the records of a run.

use serde::{Deserialize, Serialize};
use traces::units::{NS_PER_S, Nanos};

use super::measured::Measured;
use super::{
    FORMULAS, Limits, Report, SCHEMA_VERSION, SloBound, Workload, cache, counting, counts, goodput,
    ms, samples, series, shapes, stages, timeline, verdict,
};
use crate::measure::expected::expected_hits;
use crate::measure::intervals::Distribution;
use crate::plan::Plan;
use crate::send::RunOutcome;
use crate::send::record::RequestRecord;

/// Share of the schedule's length after its end within which a request still counts as in time.
const LATE_PART: f64 = 0.01;

/// Adherence to the schedule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScheduleReport {
    /// Time from the first intended time to the last.
    pub span_s: f64,
    /// Requests per second of the schedule.
    pub offered_rps: f64,
    /// Requests per second that were sent during the schedule.
    pub achieved_rps: f64,
    /// Lag of the generator.
    pub lag_ms: Distribution,
    /// Wait for a slot under `--max-inflight`.
    pub queue_wait_ms: Distribution,
    /// Time from the send until a ready connection accepts the body.
    pub connect_ms: Distribution,
}

/// Latencies in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Time to first token from the intended time.
    pub ttft_response_ms: Distribution,
    /// Time to first token from the send.
    pub ttft_service_ms: Distribution,
    /// Time to last token from the intended time.
    pub e2e_response_ms: Distribution,
    /// Time to last token from the send.
    pub e2e_service_ms: Distribution,
    /// Time per output token after the first.
    pub tpot_ms: Distribution,
    /// Gaps between chunks.
    pub itl_ms: Distribution,
}

impl Report {
    /// Computes the report of a run of `plan`.
    pub fn new(workload: Workload, plan: &Plan, outcome: &RunOutcome, limits: &Limits) -> Self {
        let run = Measured::new(plan, outcome, limits.warmup);
        let latency = latency(&run);
        let expected = expected_hits(run.sent_plan(), limits.server_block_tokens);
        let lag_limit = limits.lag.unwrap_or_else(|| verdict::default_lag_limit(&latency));
        let schedule = schedule(&run, limits, lag_limit);
        let throughput = counts::throughput(&run);
        let cores = outcome.cpu_s.map(|cpu| cpu / throughput.wall_s.max(1e-9));
        let errors = counts::errors(&outcome.records);
        let counts = counts::counts(plan, outcome);
        let facts = verdict::Facts {
            schedule: &schedule,
            completed: counts.completed,
            errors: &errors,
            lag_limit,
            drops_allowed: limits.drops_allowed,
            cut_short: outcome.cut_short.as_deref(),
            cpu_cores: cores,
            busiest_thread: outcome.client.busiest,
            starved: outcome.client.starved,
            cooldown_hit: outcome.cooldown_hit,
        };
        Self {
            schema_version: SCHEMA_VERSION,
            verdict: verdict::judge(&facts),
            cut_short: outcome.cut_short.clone(),
            counting: counting::Counting::of(&outcome.records),
            counts,
            cache: cache::cache(&run, &expected, limits.server_block_tokens),
            goodput: goodput::goodput(&run.records, &limits.slos, run.span_s()),
            slos: limits.slos.iter().map(SloBound::of).collect(),
            stages: stages::stages(&run),
            slowest: counts::slowest(&run, limits.slowest),
            marks: Vec::new(),
            server: None,
            client_cpu_cores: cores,
            formulas: FORMULAS.map(str::to_owned).to_vec(),
            series: series::series(&run, &expected),
            shapes: shapes::shapes(&run),
            timeline: timeline::timeline(outcome),
            samples: samples::samples(&run),
            window: run.window,
            workload,
            schedule,
            latency,
            throughput,
            errors,
            search: None,
        }
    }
}

fn latency(run: &Measured<'_>) -> Latency {
    let collect = |of: &dyn Fn(&RequestRecord) -> Option<i64>| {
        Distribution::of(run.completed().filter_map(of).map(ms).collect())
    };
    let tpot = run.completed().filter_map(RequestRecord::tpot_ns).map(|ns| ns / 1e6);
    let gaps = run.completed().flat_map(|r| r.reply.tokens.gaps());
    Latency {
        ttft_response_ms: collect(&|r| r.ttft_ns(r.intended_ns)),
        ttft_service_ms: collect(&|r| r.ttft_ns(r.dispatched_ns?)),
        e2e_response_ms: collect(&|r| r.e2e_ns(r.intended_ns)),
        e2e_service_ms: collect(&|r| r.e2e_ns(r.dispatched_ns?)),
        tpot_ms: Distribution::of(tpot.collect()),
        itl_ms: Distribution::of(gaps.map(ms).collect()),
    }
}

fn schedule(run: &Measured<'_>, limits: &Limits, lag_limit: Nanos) -> ScheduleReport {
    let span_s = run.span_s();
    let late_ns = lag_limit.0.max((span_s * LATE_PART * NS_PER_S as f64) as i64);
    let end_ns = run.to_ns + late_ns;
    let rate = |n: usize| if span_s > 0.0 { n as f64 / span_s } else { n as f64 };
    let waits = run.offered().filter_map(RequestRecord::queue_wait_ns).map(ms);
    ScheduleReport {
        span_s,
        offered_rps: rate(run.offered().count()),
        achieved_rps: rate(
            run.offered()
                .filter(|record| match record.dispatched_ns {
                    Some(at) => at <= end_ns,
                    None => limits.drops_allowed,
                })
                .count(),
        ),
        lag_ms: Distribution::of(run.offered().map(|r| ms(r.lag_ns())).collect()),
        queue_wait_ms: Distribution::of(waits.collect()),
        connect_ms: Distribution::of(
            run.offered().filter_map(|r| Some(ms(r.written_ns? - r.dispatched_ns?))).collect(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::measured::tests::{outcome, plan};
    use super::*;
    use crate::measure::windows::Warmup;

    const MS: i64 = 1_000_000;

    /// A hundred requests, 10 ms apart.
    fn run(lag_ms: impl Fn(usize) -> i64) -> Run {
        Run { plan: plan(100), outcome: outcome(100, lag_ms) }
    }

    struct Run {
        plan: Plan,
        outcome: RunOutcome,
    }

    fn measured(run: &Run) -> Measured<'_> {
        Measured::new(&run.plan, &run.outcome, Warmup::None)
    }

    fn schedule_of(run: &Run) -> ScheduleReport {
        let limits = Limits {
            slos: Vec::new(),
            lag: None,
            drops_allowed: false,
            server_block_tokens: 16,
            slowest: 3,
            warmup: Warmup::None,
        };
        schedule(&measured(run), &limits, Nanos(MS))
    }

    #[test]
    fn a_late_generator_shows_in_response_times_and_not_in_service_times() {
        let run = run(|_| 7);
        let latency = latency(&measured(&run));
        assert_eq!(latency.ttft_response_ms.quantiles.p50, Some(57.0));
        assert_eq!(latency.ttft_service_ms.quantiles.p50, Some(50.0));
        assert_eq!(latency.e2e_response_ms.quantiles.max, Some(97.0));
        assert_eq!(latency.e2e_service_ms.quantiles.max, Some(90.0));
        assert_eq!(latency.tpot_ms.quantiles.p99, Some(20.0));
        assert_eq!(
            (latency.itl_ms.quantiles.count, latency.itl_ms.quantiles.mean),
            (200, Some(20.0))
        );
        let work = counts::throughput(&measured(&run));
        assert_eq!((work.output_tokens, work.requests_per_s), (300, 50.0));
        assert_eq!(schedule_of(&run).lag_ms.quantiles.p50, Some(7.0));
    }

    #[test]
    fn requests_sent_after_the_schedule_are_not_achieved() {
        let on_time = schedule_of(&run(|_| 7));
        assert_eq!(on_time.achieved_rps, on_time.offered_rps);
        let behind = schedule_of(&run(|index| if index < 95 { 0 } else { 500 }));
        assert!((behind.achieved_rps / behind.offered_rps - 0.95).abs() < 1e-9, "{behind:?}");
    }

    #[test]
    fn the_slowest_are_listed_from_the_intended_time() {
        let run = run(|index| i64::from(index == 40) * 33);
        let rows = counts::slowest(&measured(&run), 2);
        assert_eq!((rows.len(), rows[0].index, rows[0].ttft_ms), (2, 40, 83.0));
    }
}
