//! Flags of `loadgen run`: the server, and the sending of requests.

use std::path::PathBuf;

use clap::{ArgAction, Args};
use traces::units::Nanos;

use super::reporting::ReportingArgs;
use crate::plan::args::{LoadArgs, ReplayArgs};
use crate::plan::body::Endpoint;
use crate::send::OnFull;

/// Flags of a run.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The server.
    #[command(flatten)]
    pub target: TargetArgs,
    /// The requests.
    #[command(flatten)]
    pub load: LoadArgs,
    /// A trace to replay.
    #[command(flatten)]
    pub replay: ReplayArgs,
    /// Sending of the requests.
    #[command(flatten)]
    pub sending: SendingArgs,
    /// Evaluation and report.
    #[command(flatten)]
    pub reporting: ReportingArgs,
}

/// The server.
#[derive(Debug, Args)]
#[command(next_help_heading = "Server")]
pub struct TargetArgs {
    /// Base URL, http or https, with or without /v1.
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    pub url: String,
    /// Certificates (PEM) of the authorities to check an https server against, instead of the
    /// system's.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Endpoint.
    #[arg(long, value_enum, default_value = "completions")]
    pub endpoint: Endpoint,
    /// Model to request. Default: the first one that the server lists.
    #[arg(long)]
    pub model: Option<String>,
    /// Header to send with every request, NAME: VALUE.
    #[arg(long = "header", value_name = "HEADER")]
    pub headers: Vec<String>,
}

/// Sending of the requests.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sending")]
pub struct SendingArgs {
    /// Limit from the intended time of a request to its end.
    #[arg(long, default_value = "120s")]
    pub timeout: Nanos,
    /// Limit of requests in flight. Default: none.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_inflight: Option<u32>,
    /// Treatment of a request that is due at the limit.
    #[arg(long, value_enum, default_value = "queue")]
    pub on_full: OnFull,
    /// Time that requests in flight have left after Ctrl-C.
    #[arg(long, default_value = "5s")]
    pub grace: Nanos,
    /// Threads that send and receive; one drives thousands of streams (see `loadgen calibrate`).
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub threads: u32,
    /// Run a command at a time of the schedule, for example --at 60s 'kill -9 4711'. May be
    /// repeated.
    #[arg(long, num_args = 2, value_names = ["TIME", "COMMAND"], action = ArgAction::Append)]
    pub at: Vec<String>,
    /// Mark a time of the schedule in the report. May be repeated.
    #[arg(long, num_args = 2, value_names = ["TIME", "TEXT"], action = ArgAction::Append)]
    pub mark: Vec<String>,
    /// Export a span for each sampled request to this OTLP gRPC endpoint.
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,
    /// Serve /metrics (OpenMetrics) at this address during the run.
    #[arg(long, value_name = "HOST:PORT")]
    pub metrics_listen: Option<String>,
    /// Share of the requests whose trace context has the sampled flag.
    #[arg(long, default_value_t = 1.0)]
    pub trace_ratio: f64,
    /// Sampling temperature.
    #[arg(long, default_value_t = 0.0)]
    pub temperature: f64,
    /// Let replies end at the end-of-sequence token, before their length.
    #[arg(long = "heed-eos")]
    pub respect_eos: bool,
    /// JSON object with further fields of each body.
    #[arg(long, value_name = "JSON")]
    pub extra_body: Option<String>,
}
