//! The report of a run: everything measured, computed once, printed as a table or as JSON.

pub mod goodput;
pub mod lines;
pub mod table;
pub mod verdict;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::plan::{IdealHits, Plan};
use crate::quantile::Quantiles;
use crate::record::RequestRecord;
use crate::run::RunOutcome;
use crate::units::{NS_PER_S, Nanos, Slo};

use goodput::Goodput;
use verdict::Verdict;

/// Version of the JSON report; it changes when a field changes its meaning or goes away.
pub const SCHEMA_VERSION: u32 = 1;

/// How the figures are computed; part of every report.
pub const FORMULAS: [&str; 5] = [
    "TTFT: first chunk with text − start; response counts from the intended time, service from the send",
    "TPOT: (last token − first token) / (output tokens − 1), tokens by the server's count (vLLM: TPOT, AIPerf: ITL)",
    "ITL: every gap between two chunks with text, of all requests together (vLLM: ITL)",
    "E2E: last chunk with text − start, as for TTFT",
    "goodput: requests that met every SLO by response time; failures count as misses",
];

/// What was run; decided before the first request.
#[derive(Clone, Debug, Serialize)]
pub struct Workload {
    /// Random name of this run, in `baggage` and `x-request-id`.
    pub run_id: String,
    /// When it started, Unix time.
    pub started_unix_ms: u64,
    /// Base URL.
    pub url: String,
    /// Path of the endpoint.
    pub endpoint: &'static str,
    /// Model asked for.
    pub model: String,
    /// The server's context, if it says.
    pub context_tokens: Option<u32>,
    /// Where the requests come from, for people.
    pub source: String,
    /// How prompts are made, for people.
    pub prompts: String,
    /// Seed of every random choice.
    pub seed: u64,
    /// Things the reader must know.
    pub warnings: Vec<String>,
}

/// What the figures are judged by.
#[derive(Clone, Debug)]
pub struct Limits {
    /// SLOs of a good request.
    pub slos: Vec<Slo>,
    /// The p99 lag that is still valid; none means the larger of 1 ms and 1 % of the median TTFT.
    pub lag: Option<Nanos>,
    /// Whether drops were asked for.
    pub drops_allowed: bool,
    /// Block size of the server's prefix cache.
    pub server_block_tokens: u32,
    /// How many of the slowest requests are listed.
    pub slowest: usize,
}

/// Counts of requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Counts {
    /// In the plan.
    pub planned: usize,
    /// Left out of the plan: longer than the server's context.
    pub refused_too_long: usize,
    /// Shortened to fit the server's context.
    pub truncated: usize,
    /// Offered to the server.
    pub offered: usize,
    /// Answered completely.
    pub completed: usize,
    /// Failed.
    pub failed: usize,
    /// Cut off by the operator.
    pub cancelled: usize,
    /// Kept back by the operator.
    pub unsent: usize,
    /// Completed, but not with the number of tokens asked for.
    pub wrong_length: usize,
}

/// How well the schedule was kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ScheduleReport {
    /// From the first intended time to the last.
    pub span_s: f64,
    /// Requests per second that the schedule asks for.
    pub offered_rps: f64,
    /// Requests per second that were sent while the schedule ran.
    pub achieved_rps: f64,
    /// How late the generator was.
    pub lag_ms: Quantiles,
    /// Waiting for a slot under `--max-inflight`.
    pub queue_wait_ms: Quantiles,
    /// From the send to the body being taken by a ready connection.
    pub connect_ms: Quantiles,
}

/// Latencies in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Latency {
    /// Time to first token from the intended time.
    pub ttft_response_ms: Quantiles,
    /// Time to first token from the send.
    pub ttft_service_ms: Quantiles,
    /// Time to last token from the intended time.
    pub e2e_response_ms: Quantiles,
    /// Time to last token from the send.
    pub e2e_service_ms: Quantiles,
    /// Time per output token after the first.
    pub tpot_ms: Quantiles,
    /// Gaps between chunks.
    pub itl_ms: Quantiles,
}

/// Work done.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Throughput {
    /// From the start of the schedule to the end of the last request.
    pub wall_s: f64,
    /// Completed requests per second of that.
    pub requests_per_s: f64,
    /// Output tokens per second of that.
    pub output_tokens_per_s: f64,
    /// Prompt and output tokens per second of that.
    pub total_tokens_per_s: f64,
    /// Prompt tokens of completed requests, by the server's count.
    pub prompt_tokens: u64,
    /// Output tokens of completed requests, by the server's count.
    pub output_tokens: u64,
    /// Prompt tokens the server counted beyond those planned, a request.
    pub prompt_overhead_tokens: Option<f64>,
}

/// Prefix reuse: what this very run allows beside what the server reports.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CacheReport {
    /// Ideal hits by blocks of the trace.
    pub ideal_block_hit: f64,
    /// Ideal hits by prompt tokens.
    pub ideal_token_hit: f64,
    /// Block size of the server that the next figure assumes.
    pub server_block_tokens: u32,
    /// Ideal hits by prompt tokens with such blocks, the last token always computed.
    pub ideal_server_token_hit: f64,
    /// Cached over prompt tokens of completed requests; none if the server does not say.
    pub observed_token_hit: Option<f64>,
    /// Observed over ideal, both by tokens at the server's blocks.
    pub efficiency: Option<f64>,
}

/// One class of failures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorCount {
    /// Its name.
    pub class: String,
    /// How many.
    pub count: usize,
    /// What was said of the first.
    pub example: String,
}

/// One of the slowest requests.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Slow {
    /// Its place in the plan.
    pub index: usize,
    /// Its trace.
    pub trace_id: String,
    /// Time to first token from the intended time.
    pub ttft_ms: f64,
    /// Time to last token from the intended time.
    pub e2e_ms: f64,
    /// Prompt tokens planned.
    pub input_tokens: u32,
    /// Output tokens.
    pub output_tokens: u64,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of this layout.
    pub schema_version: u32,
    /// Whether the run may be believed.
    pub verdict: Verdict,
    /// Why the run was cut short, if it was.
    pub cut_short: Option<String>,
    /// What was run.
    pub workload: Workload,
    /// Counts of requests.
    pub counts: Counts,
    /// How well the schedule was kept.
    pub schedule: ScheduleReport,
    /// Latencies.
    pub latency: Latency,
    /// Work done.
    pub throughput: Throughput,
    /// Prefix reuse.
    pub cache: CacheReport,
    /// Requests that met the SLOs.
    pub goodput: Option<Goodput>,
    /// Failures by class.
    pub errors: Vec<ErrorCount>,
    /// The slowest requests by time to first token.
    pub slowest: Vec<Slow>,
    /// CPU cores this process kept busy.
    pub client_cpu_cores: Option<f64>,
    /// How the figures are computed.
    pub formulas: [&'static str; 5],
}

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
            cache: cache(plan, records, limits.server_block_tokens),
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

fn schedule(
    plan: &Plan,
    outcome: &RunOutcome,
    limits: &Limits,
    lag_limit: Nanos,
) -> ScheduleReport {
    let records = &outcome.records;
    let span_s = plan.span_ns() as f64 / NS_PER_S as f64;
    let end_ns = plan.requests.last().map_or(0, |last| last.intended_ns) + lag_limit.0;
    let in_time = |record: &&RequestRecord| match record.dispatched_ns {
        Some(at) => at <= end_ns,
        None => limits.drops_allowed,
    };
    let sent = records.iter().filter(in_time).count();
    let rate = |n: usize| if span_s > 0.0 { n as f64 / span_s } else { n as f64 };
    let connect = |r: &RequestRecord| Some(ms(r.written_ns? - r.dispatched_ns?));
    let waits = records.iter().filter_map(RequestRecord::queue_wait_ns).map(ms);
    ScheduleReport {
        span_s,
        offered_rps: rate(plan.requests.len()),
        achieved_rps: rate(sent),
        lag_ms: Quantiles::of(records.iter().map(|r| ms(r.lag_ns())).collect()),
        queue_wait_ms: Quantiles::of(waits.collect()),
        connect_ms: Quantiles::of(records.iter().filter_map(connect).collect()),
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
        cancelled: outcome.cancelled,
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

fn cache(plan: &Plan, records: &[RequestRecord], server_block_tokens: u32) -> CacheReport {
    let IdealHits { block_hit, token_hit, server_token_hit, .. } =
        plan.ideal_hits(server_block_tokens);
    let usages = completed(records).filter_map(|r| r.reply.usage);
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
    let count = |(class, (count, example)): (crate::record::FailureClass, (usize, &str))| {
        ErrorCount { class: class.to_string(), count, example: example.to_owned() }
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
