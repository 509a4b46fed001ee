//! Computes the figures of a report from the records of a run.

use std::collections::BTreeMap;

use super::{
    CacheReport, Counts, ErrorCount, FORMULAS, Latency, Limits, Report, SCHEMA_VERSION,
    ScheduleReport, Slow, Throughput, Workload, goodput, verdict,
};
use crate::plan::{IdealHits, Plan, PlannedRequest, ideal_hits};
use crate::quantile::Quantiles;
use crate::record::{FailureClass, RequestRecord};
use crate::run::RunOutcome;
use crate::units::{NS_PER_S, Nanos};

impl Report {
    /// Computes the report of a run of `plan`.
    pub fn new(workload: Workload, plan: &Plan, outcome: &RunOutcome, limits: &Limits) -> Self {
        let records = &outcome.records;
        let latency = latency(records);
        let lag_limit = limits.lag.unwrap_or_else(|| verdict::default_lag_limit(&latency));
        let schedule = schedule(plan, outcome, limits, lag_limit);
        let throughput = throughput(plan, outcome);
        let counts = counts(plan, outcome);
        let cores = outcome.cpu_s.map(|cpu| cpu / throughput.wall_s.max(1e-9));
        let errors = errors(records);
        let facts = verdict::Facts {
            schedule: &schedule,
            errors: &errors,
            lag_limit,
            drops_allowed: limits.drops_allowed,
            cut_short: outcome.cut_short.as_deref(),
            cpu_cores: cores,
        };
        Self {
            schema_version: SCHEMA_VERSION,
            verdict: verdict::judge(&facts),
            cut_short: outcome.cut_short.clone(),
            cache: cache(plan, outcome, limits.server_block_tokens),
            goodput: goodput::goodput(records, &limits.slos, throughput.wall_s),
            slowest: slowest(plan, records, limits.slowest),
            client_cpu_cores: cores,
            formulas: FORMULAS,
            workload,
            counts,
            schedule,
            latency,
            throughput,
            errors,
        }
    }
}

fn ms(ns: i64) -> f64 {
    ns as f64 / 1e6
}

fn completed(records: &[RequestRecord]) -> impl Iterator<Item = &RequestRecord> {
    records.iter().filter(|record| record.succeeded())
}

fn latency(records: &[RequestRecord]) -> Latency {
    let collect = |of: &dyn Fn(&RequestRecord) -> Option<i64>| {
        Quantiles::of(completed(records).filter_map(of).map(ms).collect())
    };
    let tpot = completed(records).filter_map(RequestRecord::tpot_ns).map(|ns| ns / 1e6);
    let gaps = completed(records).flat_map(|r| r.reply.tokens.gaps());
    Latency {
        ttft_response_ms: collect(&|r| r.ttft_ns(r.intended_ns)),
        ttft_service_ms: collect(&|r| r.ttft_ns(r.dispatched_ns?)),
        e2e_response_ms: collect(&|r| r.e2e_ns(r.intended_ns)),
        e2e_service_ms: collect(&|r| r.e2e_ns(r.dispatched_ns?)),
        tpot_ms: Quantiles::of(tpot.collect()),
        itl_ms: Quantiles::of(gaps.map(ms).collect()),
    }
}

/// What is sent up to this part of the schedule's span behind its end still counts as in time.
const LATE_PART: f64 = 0.01;

/// The part of the plan that the run got to: all of it unless it was cut short.
fn offered<'a>(plan: &'a Plan, outcome: &RunOutcome) -> &'a [PlannedRequest] {
    &plan.requests[..plan.requests.len() - outcome.unsent]
}

fn schedule(
    plan: &Plan,
    outcome: &RunOutcome,
    limits: &Limits,
    lag_limit: Nanos,
) -> ScheduleReport {
    let offered = offered(plan, outcome);
    let at = |request: Option<&PlannedRequest>| request.map_or(0, |r| r.intended_ns);
    let span_s = (at(offered.last()) - at(offered.first())) as f64 / NS_PER_S as f64;
    let late_ns = lag_limit.0.max((span_s * LATE_PART * NS_PER_S as f64) as i64);
    let end_ns = at(offered.last()) + late_ns;
    let in_time = |record: &&RequestRecord| match record.dispatched_ns {
        Some(at) => at <= end_ns,
        None => limits.drops_allowed,
    };
    let all = || outcome.records.iter().chain(&outcome.cancelled);
    let rate = |n: usize| if span_s > 0.0 { n as f64 / span_s } else { n as f64 };
    let connect = |r: &RequestRecord| Some(ms(r.written_ns? - r.dispatched_ns?));
    let waits = all().filter_map(RequestRecord::queue_wait_ns).map(ms);
    ScheduleReport {
        span_s,
        offered_rps: rate(offered.len()),
        achieved_rps: rate(all().filter(in_time).count()),
        lag_ms: Quantiles::of(all().map(|r| ms(r.lag_ns())).collect()),
        queue_wait_ms: Quantiles::of(waits.collect()),
        connect_ms: Quantiles::of(all().filter_map(connect).collect()),
    }
}

fn counts(plan: &Plan, outcome: &RunOutcome) -> Counts {
    let records = &outcome.records;
    let done = completed(records).count();
    let wrong = |r: &&RequestRecord| {
        r.reply.output_tokens() != u64::from(plan.requests[r.index].output_tokens)
    };
    Counts {
        planned: plan.requests.len(),
        refused_too_long: plan.refused_too_long,
        truncated: plan.truncated,
        offered: records.len(),
        completed: done,
        failed: records.len() - done,
        cancelled: outcome.cancelled.len(),
        unsent: outcome.unsent,
        wrong_length: completed(records).filter(wrong).count(),
    }
}

fn throughput(plan: &Plan, outcome: &RunOutcome) -> Throughput {
    let wall_s = outcome.wall_ns.max(1) as f64 / NS_PER_S as f64;
    let done: Vec<&RequestRecord> = completed(&outcome.records).collect();
    let planned = |r: &RequestRecord| u64::from(plan.requests[r.index].input_tokens);
    let counted: Vec<(u64, u64)> = done
        .iter()
        .filter_map(|r| r.reply.usage.map(|usage| (usage.prompt_tokens, planned(r))))
        .collect();
    let overhead: f64 = counted.iter().map(|(got, asked)| *got as f64 - *asked as f64).sum();
    let prompt_tokens =
        done.iter().map(|r| r.reply.usage.map_or_else(|| planned(r), |u| u.prompt_tokens)).sum();
    let output_tokens: u64 = done.iter().map(|r| r.reply.output_tokens()).sum();
    Throughput {
        wall_s,
        requests_per_s: done.len() as f64 / wall_s,
        output_tokens_per_s: output_tokens as f64 / wall_s,
        total_tokens_per_s: (prompt_tokens + output_tokens) as f64 / wall_s,
        prompt_tokens,
        output_tokens,
        prompt_overhead_tokens: (!counted.is_empty()).then(|| overhead / counted.len() as f64),
    }
}

fn cache(plan: &Plan, outcome: &RunOutcome, server_block_tokens: u32) -> CacheReport {
    let IdealHits { block_hit, token_hit, server_token_hit } =
        ideal_hits(offered(plan, outcome), server_block_tokens);
    let usages = completed(&outcome.records).filter_map(|r| r.reply.usage);
    let (mut cached, mut prompt) = (0, 0);
    for usage in usages {
        if let Some(tokens) = usage.cached_tokens {
            cached += tokens;
            prompt += usage.prompt_tokens;
        }
    }
    let observed = (prompt > 0).then(|| cached as f64 / prompt as f64);
    CacheReport {
        ideal_block_hit: block_hit,
        ideal_token_hit: token_hit,
        server_block_tokens,
        ideal_server_token_hit: server_token_hit,
        observed_token_hit: observed,
        efficiency: observed.filter(|_| server_token_hit > 0.0).map(|hit| hit / server_token_hit),
    }
}

fn errors(records: &[RequestRecord]) -> Vec<ErrorCount> {
    let mut classes: BTreeMap<_, (usize, &str)> = BTreeMap::new();
    for failure in records.iter().filter_map(|r| r.failure.as_ref()) {
        classes.entry(failure.class).or_insert((0, &failure.message)).0 += 1;
    }
    let count = |(class, (count, example)): (FailureClass, (usize, &str))| ErrorCount {
        class: class.to_string(),
        count,
        example: example.to_owned(),
    };
    classes.into_iter().map(count).collect()
}

fn slowest(plan: &Plan, records: &[RequestRecord], how_many: usize) -> Vec<Slow> {
    let row = |r: &RequestRecord| {
        Some(Slow {
            index: r.index,
            trace_id: r.trace_id.clone(),
            ttft_ms: ms(r.ttft_ns(r.intended_ns)?),
            e2e_ms: ms(r.e2e_ns(r.intended_ns)?),
            input_tokens: plan.requests[r.index].input_tokens,
            output_tokens: r.reply.output_tokens(),
        })
    };
    let mut rows: Vec<Slow> = completed(records).filter_map(row).collect();
    rows.sort_by(|a, b| b.ttft_ms.total_cmp(&a.ttft_ms));
    rows.truncate(how_many);
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::Reply;
    use crate::units::Range;

    const MS: i64 = 1_000_000;

    /// 100 requests, 10 ms apart, each `lag_ms` late; tokens 50, 60 and 90 ms after the send.
    fn run(lag_ms: impl Fn(usize) -> i64) -> (Plan, RunOutcome) {
        let times: Vec<i64> = (0..100).map(|i| i * 10 * MS).collect();
        let plan = Plan::synthetic(&times, Range { lo: 8, hi: 8 }, Range { lo: 3, hi: 3 }, 1);
        let record = |(index, at): (usize, &i64)| {
            let sent = at + lag_ms(index) * MS;
            let reply = Reply {
                tokens: [50, 60, 90].map(|t| sent + t * MS).into_iter().collect(),
                ..Reply::default()
            };
            RequestRecord {
                index,
                intended_ns: *at,
                issued_ns: sent,
                dispatched_ns: Some(sent),
                written_ns: Some(sent),
                first_byte_ns: Some(sent),
                reply,
                finished_ns: sent + 91 * MS,
                failure: None,
                request_id: String::new(),
                trace_id: String::new(),
            }
        };
        let records = times.iter().enumerate().map(record).collect();
        (plan, RunOutcome { records, wall_ns: 2000 * MS, ..RunOutcome::default() })
    }

    fn schedule_of((plan, outcome): &(Plan, RunOutcome)) -> ScheduleReport {
        let limits = Limits {
            slos: Vec::new(),
            lag: None,
            drops_allowed: false,
            server_block_tokens: 16,
            slowest: 3,
        };
        schedule(plan, outcome, &limits, Nanos(MS))
    }

    #[test]
    fn a_late_generator_shows_in_response_times_and_not_in_service_times() {
        let (plan, outcome) = run(|_| 7);
        let latency = latency(&outcome.records);
        assert_eq!(latency.ttft_response_ms.p50, Some(57.0));
        assert_eq!(latency.ttft_service_ms.p50, Some(50.0));
        assert_eq!(latency.e2e_response_ms.max, Some(97.0));
        assert_eq!(latency.e2e_service_ms.max, Some(90.0));
        assert_eq!(latency.tpot_ms.p99, Some(20.0));
        assert_eq!((latency.itl_ms.count, latency.itl_ms.mean), (200, Some(20.0)));
        let work = throughput(&plan, &outcome);
        assert_eq!((work.output_tokens, work.requests_per_s), (300, 50.0));
        assert_eq!(schedule_of(&(plan, outcome)).lag_ms.p50, Some(7.0));
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
        let (plan, outcome) = run(|index| i64::from(index == 40) * 33);
        let rows = slowest(&plan, &outcome.records, 2);
        assert_eq!((rows.len(), rows[0].index, rows[0].ttft_ms), (2, 40, 83.0));
    }
}
