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
    let gaps = completed(records).flat_map(|r| r.reply.token_at_ns.windows(2));
    Latency {
        ttft_response_ms: collect(&|r| r.ttft_ns(r.intended_ns)),
        ttft_service_ms: collect(&|r| r.ttft_ns(r.dispatched_ns?)),
        e2e_response_ms: collect(&|r| r.e2e_ns(r.intended_ns)),
        e2e_service_ms: collect(&|r| r.e2e_ns(r.dispatched_ns?)),
        tpot_ms: Quantiles::of(tpot.collect()),
        itl_ms: Quantiles::of(gaps.map(|w| ms(w[1] - w[0])).collect()),
    }
}

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
    let end_ns = at(offered.last()) + lag_limit.0;
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
