//! Flags of `loadgen run`: the server, and the sending of requests.

use std::path::PathBuf;

use clap::{ArgAction, Args};
use hyper::header::HeaderValue;
use traces::units::Nanos;

use super::reporting::ReportingArgs;
use crate::plan::args::{LoadArgs, ReplayArgs};
use crate::plan::body::Endpoint;
use crate::send::OnFull;
use crate::send::client::ServerAddress;

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

/// A key of the API, which no output shows. An empty one, as of a variable without a value, is none.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(Option<HeaderValue>);

impl ApiKey {
    /// Returns the value of the header `authorization`.
    pub fn authorization(&self) -> Option<&HeaderValue> {
        self.0.as_ref()
    }
}

impl std::str::FromStr for ApiKey {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim().is_empty() {
            return Ok(Self(None));
        }
        let value = HeaderValue::from_str(&format!("Bearer {}", text.trim()));
        let mut value = value.map_err(|_| "a key has no line breaks or control characters")?;
        value.set_sensitive(true);
        Ok(Self(Some(value)))
    }
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

/// The server.
#[derive(Debug, Args)]
#[command(next_help_heading = "Server")]
pub struct TargetArgs {
    /// Read flags from this YAML file: a key per flag, a list for one that may be repeated. A flag
    /// of the command line replaces that of the file.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
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
    /// Key to send as `Authorization: Bearer KEY`. Better given by the environment than on a
    /// command line, which other users of the machine can read.
    #[arg(long, value_name = "KEY", env = "OPENAI_API_KEY", hide_env_values = true)]
    pub api_key: Option<ApiKey>,
    /// Server whose /metrics are scraped each second for the report, a URL or `none`. Default: that
    /// of --url.
    #[arg(long, value_name = "URL")]
    pub server_metrics: Option<String>,
    /// Header to send with every request, NAME: VALUE.
    #[arg(long = "header", value_name = "HEADER")]
    pub headers: Vec<String>,
}

impl TargetArgs {
    /// Returns the server whose metrics are scraped, if any is.
    pub fn metrics_server(&self) -> Option<ServerAddress<'_>> {
        match self.server_metrics.as_deref() {
            None => Some(self.server()),
            Some("none") => None,
            // Another server gets neither the key nor the headers of this one.
            Some(url) => Some(ServerAddress {
                base: url.trim_end_matches("/metrics"),
                authorization: None,
                headers: &[],
                ..self.server()
            }),
        }
    }

    /// Returns the server to talk to.
    pub fn server(&self) -> ServerAddress<'_> {
        ServerAddress {
            base: &self.url,
            ca_file: self.ca_file.as_deref(),
            authorization: self.api_key.as_ref().and_then(ApiKey::authorization),
            headers: &self.headers,
        }
    }
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
