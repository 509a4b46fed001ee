//! The report of a run: everything measured, computed once, shown as text, JSON, CSV, Markdown or
//! one page of HTML.

pub mod bins;
pub mod cache;
pub mod cache_series;
pub mod counts;
mod figures;
pub mod goodput;
pub mod measured;
pub mod output;
pub mod render;
pub mod samples;
pub mod saved;
pub mod search;
pub mod series;
pub mod shapes;
pub mod stage_series;
pub mod stages;
pub mod timeline;
pub mod verdict;

use serde::{Deserialize, Serialize};

use crate::measure::windows::{Warmup, WindowReport};
use crate::send::slo::Slo;
use crate::watch::annotate::Annotation;
use traces::units::{NS_PER_S, Nanos};

use cache::CacheReport;
use counts::{Counts, ErrorCount, Slow, Throughput};
pub use figures::{Latency, ScheduleReport};
use goodput::Goodput;
use samples::Samples;
use search::SearchReport;
use series::Series;
use shapes::Shapes;
use stages::StageReport;
use timeline::Timeline;
use verdict::Verdict;

/// Version of the JSON report; it changes when a field changes its meaning or goes away.
pub const SCHEMA_VERSION: u32 = 2;

/// How the figures are computed; part of every report.
pub const FORMULAS: [&str; 11] = [
    "TTFT: first chunk with text − start; response counts from the intended time, service from the send",
    "TPOT: (last token − first token) / (output tokens − 1), tokens by the server's count (vLLM: TPOT, AIPerf: ITL)",
    "ITL: every gap between two chunks with text, of all requests together (vLLM: ITL)",
    "E2E: last chunk with text − start, as for TTFT",
    "goodput: requests that met every SLO by response time, of all that were due in the window; errors, time-outs and drops are misses, what the operator cut off is not counted; 95 % Wilson interval",
    "window: a request belongs to the window of its intended time; warm-up and cool-down are sent and shown, and are in no figure",
    "percentiles: from raw samples, interpolated between neighbours; their 95 % intervals come from order statistics and take requests for independent, so a queue that comes and goes makes them wider than shown; an end that the samples cannot give is left out, and so is p99.9 below 1,000 samples",
    "offered and achieved: requests due a second, and requests sent by the end of the schedule and 1 % of its length",
    "while offered: what was completed or received between the first and the last measured arrival, by the time of its completion; the drain behind it is left out",
    "stages: the server's own split up to its first token; client wait is from the intended time to the body being written, network is what neither explains",
    "ideal reuse: an infinite cache that stores at once, for exactly the requests of this run",
];

/// A bound as numbers, for charts and for comparing reports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SloBound {
    /// ttft, tpot or e2e.
    pub metric: String,
    /// The largest good value.
    pub bound_ms: f64,
}

impl SloBound {
    /// The bound of an SLO.
    pub fn of(slo: &Slo) -> Self {
        Self { metric: slo.metric.name().to_owned(), bound_ms: slo.bound.0 as f64 / 1e6 }
    }
}

/// What was run; decided before the first request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Workload {
    /// Random name of this run, in `baggage` and `x-request-id`.
    pub run_id: String,
    /// When it started, Unix time.
    pub started_unix_ms: u64,
    /// Base URL.
    pub url: String,
    /// Path of the endpoint.
    pub endpoint: String,
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
    /// Digest of the plan: equal for equal requests at equal times.
    pub schedule_digest: String,
    /// The command line, with the values of headers left out.
    pub command: String,
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
    /// What is left out at the start.
    pub warmup: Warmup,
}

/// Something that happened at a known time of the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    /// When; when it should have, if it did not.
    pub at_s: f64,
    /// What, or the command that was run.
    pub text: String,
    /// How the command ended, or that the run was over before.
    pub status: Option<String>,
    /// What the command printed.
    pub output: String,
}

impl Mark {
    /// The mark of an annotation.
    pub fn of(annotation: &Annotation) -> Self {
        let at_ns = annotation.at_ns.unwrap_or(annotation.intended_ns);
        let unreached = annotation.at_ns.is_none().then(|| "the run was over before".to_owned());
        let command = annotation.command.as_ref();
        Self {
            at_s: at_ns as f64 / NS_PER_S as f64,
            text: annotation.text.clone(),
            status: command.map(|ran| ran.status.clone()).or(unreached),
            output: command.map_or_else(String::new, |ran| ran.output.clone()),
        }
    }
}

/// All of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Version of this layout.
    pub schema_version: u32,
    /// Whether the run may be believed.
    pub verdict: Verdict,
    /// Why the run was cut short, if it was.
    pub cut_short: Option<String>,
    /// What was run.
    pub workload: Workload,
    /// Which arrivals are measured.
    pub window: WindowReport,
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
    /// Bounds of a good request.
    pub slos: Vec<SloBound>,
    /// Requests that met the SLOs.
    pub goodput: Option<Goodput>,
    /// Where the time to first token goes, if the server says.
    pub stages: Option<StageReport>,
    /// The search that this run was part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<SearchReport>,
    /// Failures by class.
    pub errors: Vec<ErrorCount>,
    /// The slowest requests by time to first token.
    pub slowest: Vec<Slow>,
    /// What happened when, beside the load.
    pub marks: Vec<Mark>,
    /// CPU cores this process kept busy.
    pub client_cpu_cores: Option<f64>,
    /// How the figures are computed.
    pub formulas: Vec<String>,
    /// How it went over time.
    pub series: Series,
    /// Distributions of the latencies.
    pub shapes: Shapes,
    /// Some requests from their due times to their ends.
    pub timeline: Timeline,
    /// The measured requests, a column for each figure.
    pub samples: Samples,
}

/// Milliseconds of nanoseconds.
fn ms(ns: i64) -> f64 {
    ns as f64 / 1e6
}

/// Rounded to the third decimal, which is enough for milliseconds and keeps files small.
fn round3(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}
