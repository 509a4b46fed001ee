//! The report of a run: everything measured, computed once, printed as a table or as JSON.

mod figures;
pub mod goodput;
pub mod lines;
pub mod table;
pub mod verdict;

use serde::Serialize;

use crate::quantile::Quantiles;
use crate::units::{Nanos, Slo};

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
