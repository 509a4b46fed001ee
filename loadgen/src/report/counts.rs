//! Counts of requests, tokens and failures, and the slowest requests.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use traces::units::NS_PER_S;

use super::measured::Measured;
use super::ms;
use crate::plan::Plan;
use crate::send::RunOutcome;
use crate::send::record::RequestRecord;

/// Counts of all requests, including warm-up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// Requests in the plan.
    pub planned: usize,
    /// Requests left out of the plan, because they exceed the server's context.
    pub refused_too_long: usize,
    /// Requests shortened to fit the server's context.
    pub truncated: usize,
    /// Requests sent to the server.
    pub offered: usize,
    /// Requests with a complete response.
    pub completed: usize,
    /// Failed requests.
    pub failed: usize,
    /// Requests cancelled by the operator.
    pub cancelled: usize,
    /// Requests not sent because of the operator.
    pub unsent: usize,
    /// Turns of sessions that were not due before the end of the plan.
    pub beyond_end: usize,
    /// Cool-down requests that were not needed.
    pub unneeded: usize,
    /// Completed requests with another number of tokens than requested.
    pub wrong_length: usize,
}

/// Throughput of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Throughput {
    /// Time from the start of the schedule to the end of the last request.
    pub wall_s: f64,
    /// Completed requests per second of `wall_s`.
    pub requests_per_s: f64,
    /// Output tokens per second of `wall_s`.
    pub output_tokens_per_s: f64,
    /// Prompt and output tokens per second of `wall_s`.
    pub total_tokens_per_s: f64,
    /// Prompt tokens of completed requests, by the server's count.
    pub prompt_tokens: u64,
    /// Output tokens of completed requests, by the server's count.
    pub output_tokens: u64,
    /// Mean number of prompt tokens per request that the server counted beyond the planned ones.
    pub prompt_overhead_tokens: Option<f64>,
    /// Requests completed per second between the first and the last measured arrival.
    pub while_offered_requests_per_s: Option<f64>,
    /// Chunks of text received per second between the first and the last measured arrival.
    pub while_offered_output_tokens_per_s: Option<f64>,
}

/// Count of one class of failures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorCount {
    /// Name of the class.
    pub class: String,
    /// Number of failures.
    pub count: usize,
    /// Message of the first failure.
    pub example: String,
}

/// A slow request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slow {
    /// Index in the plan.
    pub index: usize,
    /// Value of `x-request-id`.
    pub request_id: String,
    /// Trace id.
    pub trace_id: String,
    /// Intended time.
    pub at_s: f64,
    /// Time to first token from the intended time.
    pub ttft_ms: f64,
    /// Time to last token from the intended time.
    pub e2e_ms: f64,
    /// Planned prompt tokens.
    pub input_tokens: u32,
    /// Output tokens.
    pub output_tokens: u64,
}

/// Counts all requests of a run.
pub fn counts(plan: &Plan, outcome: &RunOutcome) -> Counts {
    let records = &outcome.records;
    let done = || records.iter().filter(|record| record.succeeded());
    Counts {
        planned: plan.requests.len(),
        refused_too_long: plan.refused_too_long,
        truncated: plan.truncated,
        offered: records.len(),
        completed: done().count(),
        failed: records.len() - done().count(),
        cancelled: outcome.cancelled.len(),
        unsent: outcome.unsent,
        beyond_end: outcome.beyond_end,
        unneeded: outcome.unneeded,
        wrong_length: done()
            .filter(|r| r.reply.output_tokens() != u64::from(plan.requests[r.index].output_tokens))
            .count(),
    }
}

/// Computes the throughput of the measured requests, and that during their arrivals.
pub fn throughput(run: &Measured<'_>) -> Throughput {
    let wall_s = run.outcome.wall_ns.max(1) as f64 / NS_PER_S as f64;
    let done: Vec<&RequestRecord> = run.completed().collect();
    let planned = |r: &RequestRecord| u64::from(run.plan.requests[r.index].input_tokens);
    let counted: Vec<(u64, u64)> = done
        .iter()
        .filter_map(|r| r.reply.usage.map(|usage| (usage.prompt_tokens, planned(r))))
        .collect();
    let overhead: f64 = counted.iter().map(|(got, asked)| *got as f64 - *asked as f64).sum();
    let prompt_tokens =
        done.iter().map(|r| r.reply.usage.map_or_else(|| planned(r), |u| u.prompt_tokens)).sum();
    let output_tokens: u64 = done.iter().map(|r| r.reply.output_tokens()).sum();
    let inside = |at: i64| run.from_ns <= at && at <= run.to_ns;
    let all = || run.outcome.records.iter().chain(&run.outcome.cancelled);
    let ended = all().filter(|r| r.succeeded() && inside(r.finished_ns)).count();
    let received: usize =
        all().map(|r| r.reply.tokens.iter().filter(|at| inside(*at)).count()).sum();
    let a_second = |n: usize| (run.span_s() > 0.0).then(|| n as f64 / run.span_s());
    Throughput {
        wall_s,
        requests_per_s: done.len() as f64 / wall_s,
        output_tokens_per_s: output_tokens as f64 / wall_s,
        total_tokens_per_s: (prompt_tokens + output_tokens) as f64 / wall_s,
        prompt_tokens,
        output_tokens,
        prompt_overhead_tokens: (!counted.is_empty()).then(|| overhead / counted.len() as f64),
        while_offered_requests_per_s: a_second(ended),
        while_offered_output_tokens_per_s: a_second(received),
    }
}

/// Counts failures by class.
pub fn errors(records: &[RequestRecord]) -> Vec<ErrorCount> {
    let mut classes: BTreeMap<_, (usize, &str)> = BTreeMap::new();
    for failure in records.iter().filter_map(|r| r.failure.as_ref()) {
        classes.entry(failure.class).or_insert((0, &failure.message)).0 += 1;
    }
    classes
        .into_iter()
        .map(|(class, (count, example))| ErrorCount {
            class: class.to_string(),
            count,
            example: example.to_owned(),
        })
        .collect()
}

/// Returns the slowest measured requests.
pub fn slowest(run: &Measured<'_>, how_many: usize) -> Vec<Slow> {
    let mut rows: Vec<Slow> = run
        .completed()
        .filter_map(|r| {
            Some(Slow {
                index: r.index,
                request_id: r.request_id.clone(),
                trace_id: r.trace_id.clone(),
                at_s: r.intended_ns as f64 / NS_PER_S as f64,
                ttft_ms: ms(r.ttft_ns(r.intended_ns)?),
                e2e_ms: ms(r.e2e_ns(r.intended_ns)?),
                input_tokens: run.plan.requests[r.index].input_tokens,
                output_tokens: r.reply.output_tokens(),
            })
        })
        .collect();
    rows.sort_by(|a, b| b.ttft_ms.total_cmp(&a.ttft_ms));
    rows.truncate(how_many);
    rows
}
