//! The report of a run: all figures, computed once, and rendered as text, JSON, CSV, Markdown or
//! one page of HTML.

pub mod bins;
pub mod cache;
pub mod cache_series;
pub mod counting;
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
pub mod server;
pub mod shapes;
pub mod stage_series;
pub mod stages;
pub mod timeline;
pub mod verdict;

use serde::{Deserialize, Serialize};
use traces::units::{NS_PER_S, Nanos};

use crate::measure::windows::{Warmup, WindowReport};
use crate::send::slo::Slo;
use crate::watch::annotate::Annotation;

use cache::CacheReport;
use counting::Counting;
use counts::{Counts, ErrorCount, Slow, Throughput};
pub use figures::{Latency, ScheduleReport};
use goodput::Goodput;
use samples::Samples;
use search::SearchReport;
use series::Series;
use server::ServerReport;
use shapes::Shapes;
use stages::StageReport;
use timeline::Timeline;
use verdict::Verdict;

/// Version of the JSON report. It changes if a field changes its meaning or is removed.
pub const SCHEMA_VERSION: u32 = 2;

/// Definitions of the figures; part of every report.
pub const FORMULAS: [&str; 11] = [
    "TTFT: first chunk with text − start; response counts from the intended time, service from the send",
    "TPOT: (last token − first token) / (output tokens − 1), tokens by the server's count (vLLM: TPOT, AIPerf: ITL)",
    "ITL: every gap between two chunks with text, of all requests together (vLLM: ITL)",
    "E2E: last chunk with text − start, as for TTFT",
    "goodput: requests that met every SLO by response time, over all that were due in the window; errors, timeouts and drops are misses, cancelled requests are not counted; 95 % Wilson interval",
    "window: a request belongs to the window of its intended time; warm-up and cool-down are sent and shown, and are in no figure",
    "percentiles: from raw samples, interpolated between neighbors; their 95 % intervals come from order statistics of independent requests, so a fluctuating queue has wider ones; an end that the samples cannot give is missing, and so is p99.9 below 1,000 samples",
    "offered and achieved: requests due per second, and requests sent by the end of the schedule plus 1 % of its length",
    "while offered: completed or received between the first and the last measured arrival, by the time of completion, without the drain after it",
    "stages: the server's own stages up to its first token; client wait is from the intended time until the body is written, network is the rest",
    "ideal reuse: an infinite cache that stores at once, for exactly the requests of this run",
];

/// An SLO as numbers, for charts and comparisons.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SloBound {
    /// ttft, tpot or e2e.
    pub metric: String,
    /// Largest good value.
    pub bound_ms: f64,
}

impl SloBound {
    /// Converts an SLO.
    pub fn of(slo: &Slo) -> Self {
        Self { metric: slo.metric.name().to_owned(), bound_ms: slo.bound.0 as f64 / 1e6 }
    }
}

/// Description of a run, fixed before the first request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Workload {
    /// Random id of the run, in `baggage` and `x-request-id`.
    pub run_id: String,
    /// Start, in Unix time.
    pub started_unix_ms: u64,
    /// Base URL.
    pub url: String,
    /// Path of the endpoint.
    pub endpoint: String,
    /// Requested model.
    pub model: String,
    /// Context of the server, if it reports it.
    pub context_tokens: Option<u32>,
    /// Origin of the requests, for people.
    pub source: String,
    /// Form of the prompts, for people.
    pub prompts: String,
    /// Seed of every random choice.
    pub seed: u64,
    /// Digest of the plan: equal for equal requests at equal times.
    pub schedule_digest: String,
    /// Command line without the values of headers.
    pub command: String,
    /// Warnings for a reader.
    pub warnings: Vec<String>,
}

/// Limits that figures are compared with.
#[derive(Clone, Debug)]
pub struct Limits {
    /// SLOs of a good request.
    pub slos: Vec<Slo>,
    /// Largest p99 lag of a valid run; `None` for the larger of 1 ms and 1 % of the median TTFT.
    pub lag: Option<Nanos>,
    /// True if requests may be dropped at the limit of requests in flight.
    pub drops_allowed: bool,
    /// Block size of the server's prefix cache.
    pub server_block_tokens: u32,
    /// Number of slowest requests to list.
    pub slowest: usize,
    /// Rule for leaving out the start of the run.
    pub warmup: Warmup,
}

/// An event at a known time of the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    /// Actual time, or the planned one if the event did not happen.
    pub at_s: f64,
    /// Text of the mark, or the command.
    pub text: String,
    /// Status of the command, or the statement that the run ended before.
    pub status: Option<String>,
    /// Output of the command.
    pub output: String,
}

impl Mark {
    /// Converts an annotation.
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

/// Report of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Version of this layout.
    pub schema_version: u32,
    /// Validity of the run.
    pub verdict: Verdict,
    /// Reason for cutting the run short, if it was.
    pub cut_short: Option<String>,
    /// Description of the run.
    pub workload: Workload,
    /// Measured window.
    pub window: WindowReport,
    /// Counts of requests.
    pub counts: Counts,
    /// Fields, finish reasons and oddities of the answers.
    #[serde(default)]
    pub counting: Counting,
    /// Adherence to the schedule.
    pub schedule: ScheduleReport,
    /// Latencies.
    pub latency: Latency,
    /// Throughput.
    pub throughput: Throughput,
    /// Prefix reuse.
    pub cache: CacheReport,
    /// SLOs of a good request.
    pub slos: Vec<SloBound>,
    /// Requests that met every SLO; `None` without SLOs.
    pub goodput: Option<Goodput>,
    /// Breakdown of the time to first token, if the server reports stages.
    pub stages: Option<StageReport>,
    /// Gauges of the server, if it has any that are known.
    #[serde(default)]
    pub server: Option<ServerReport>,
    /// Search that the run was part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<SearchReport>,
    /// Failures by class.
    pub errors: Vec<ErrorCount>,
    /// Slowest requests by time to first token.
    pub slowest: Vec<Slow>,
    /// Events beside the load.
    pub marks: Vec<Mark>,
    /// CPU cores that this process kept busy.
    pub client_cpu_cores: Option<f64>,
    /// Definitions of the figures.
    pub formulas: Vec<String>,
    /// Figures over time.
    pub series: Series,
    /// Distributions of the latencies.
    pub shapes: Shapes,
    /// A sample of requests from their intended times to their ends.
    pub timeline: Timeline,
    /// Measured requests, one column per figure.
    pub samples: Samples,
}

/// Converts nanoseconds to milliseconds.
fn ms(ns: i64) -> f64 {
    ns as f64 / 1e6
}

/// Rounds to the third decimal, which is enough for milliseconds and makes files small.
fn round3(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}
