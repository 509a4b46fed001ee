//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::arrivals::Arrivals;
use crate::body::Endpoint;
use crate::plan::OnTooLong;
use crate::progress::ProgressMode;
use crate::run::OnFull;
use crate::trace::Format;
use crate::trace::shape::Dequantize;
use crate::units::{Nanos, Range, Slo, Window};

/// Open-loop load for servers that speak the OpenAI API.
#[derive(Debug, Parser)]
#[command(
    name = "loadgen",
    version,
    after_help = "Exit status: 0 valid run, 1 error, 2 wrong usage, 3 INVALID run, 4 no request \
                  completed, 130 cut short by Ctrl-C."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Send a load and report on it.
    Run(Box<RunArgs>),
    /// Work with trace files.
    #[command(subcommand)]
    Trace(TraceCommand),
}

/// What can be done with traces.
#[derive(Debug, Subcommand)]
pub enum TraceCommand {
    /// Print the statistics of a trace.
    Inspect {
        /// The trace file.
        file: PathBuf,
        /// Its format; found out from its first line unless given.
        #[arg(long)]
        format: Option<Format>,
        /// Tokens in a block of a Mooncake trace.
        #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
        trace_block: u32,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// How prompts are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PromptAs {
    /// Token ids, exact; completions only.
    Tokens,
    /// Text; exact with --vocab-tokenizer, of common words without.
    Text,
}

/// Everything about a run.
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
    /// How requests are sent.
    #[command(flatten)]
    pub sending: SendingArgs,
    /// How the run is judged and reported.
    #[command(flatten)]
    pub reporting: ReportingArgs,
}

/// The server.
#[derive(Debug, Args)]
#[command(next_help_heading = "Server")]
pub struct TargetArgs {
    /// Base URL, with or without /v1.
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    pub url: String,
    /// Endpoint.
    #[arg(long, value_enum, default_value = "completions")]
    pub endpoint: Endpoint,
    /// Model to ask for; the first one listed unless given.
    #[arg(long)]
    pub model: Option<String>,
    /// Header to send with every request, NAME: VALUE.
    #[arg(long = "header", value_name = "HEADER")]
    pub headers: Vec<String>,
}

/// The requests.
#[derive(Debug, Args)]
#[command(next_help_heading = "Load")]
pub struct LoadArgs {
    /// Requests per second.
    #[arg(long, required_unless_present = "trace", conflicts_with = "trace")]
    pub rate: Option<f64>,
    /// Distribution of the gaps between arrivals.
    #[arg(long, value_enum, default_value = "poisson")]
    pub arrivals: Arrivals,
    /// At most this many requests.
    #[arg(long)]
    pub requests: Option<usize>,
    /// How long requests are offered.
    #[arg(long, conflicts_with = "trace")]
    pub duration: Option<Nanos>,
    /// Prompt tokens, N or LO..HI.
    #[arg(long, default_value = "128", conflicts_with = "trace")]
    pub input_tokens: Range,
    /// Output tokens, N or LO..HI.
    #[arg(long, default_value = "32", conflicts_with = "trace")]
    pub output_tokens: Range,
    /// Seed of every random choice.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// How prompts are sent: tokens on completions, text on chat unless given.
    #[arg(long, value_enum)]
    pub prompt_as: Option<PromptAs>,
    /// Tokenizer of the model (GGUF or tokenizer.json); prompts are then made of its words.
    #[arg(long, value_name = "FILE")]
    pub vocab_tokenizer: Option<PathBuf>,
    /// Token ids that prompts are made of without a tokenizer, LO..HI with HI left out.
    #[arg(long, default_value = "1000..40000")]
    pub token_ids: Range,
    /// What happens to requests that exceed the server's context.
    #[arg(long, value_enum, default_value = "skip")]
    pub on_too_long: OnTooLong,
}

/// A trace to replay.
#[derive(Debug, Args)]
#[command(next_help_heading = "Trace replay")]
pub struct ReplayArgs {
    /// The trace file.
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Its format; found out from its first line unless given.
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Tokens in a block of a Mooncake trace.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    pub trace_block: u32,
    /// Trace seconds per second.
    #[arg(long, default_value_t = 1.0)]
    pub speedup: f64,
    /// Piece of trace time, FROM..TO.
    #[arg(long)]
    pub window: Option<Window>,
    /// Divide lengths and block size by this.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub scale: u32,
    /// What to do with time stamps that lie on a coarse grid.
    #[arg(long, value_enum, default_value = "none")]
    pub dequantize: Dequantize,
}

/// How requests are sent.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sending")]
pub struct SendingArgs {
    /// From when a request is due to when it must be over.
    #[arg(long, default_value = "120s")]
    pub timeout: Nanos,
    /// Limit of requests in flight; none unless given.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_inflight: Option<u32>,
    /// What happens to a request that is due at the limit.
    #[arg(long, value_enum, default_value = "queue")]
    pub on_full: OnFull,
    /// How long requests in flight may go on after Ctrl-C.
    #[arg(long, default_value = "5s")]
    pub grace: Nanos,
    /// Part of the requests whose trace context asks to be sampled.
    #[arg(long, default_value_t = 1.0)]
    pub trace_ratio: f64,
    /// Sampling temperature.
    #[arg(long, default_value_t = 0.0)]
    pub temperature: f64,
    /// Let replies end before their length.
    #[arg(long)]
    pub heed_eos: bool,
    /// JSON object of further fields of each body.
    #[arg(long, value_name = "JSON")]
    pub extra_body: Option<String>,
}

/// How the run is judged and reported.
#[derive(Debug, Args)]
#[command(next_help_heading = "Report")]
pub struct ReportingArgs {
    /// Bound of a good request: ttft=500ms, tpot=50ms, e2e=5s. May be repeated.
    #[arg(long = "slo", value_name = "SLO")]
    pub slos: Vec<Slo>,
    /// p99 lag that is still valid: unless given, the larger of 1 ms and 1 % of the median TTFT.
    #[arg(long)]
    pub lag_limit: Option<Nanos>,
    /// Block size of the server's prefix cache, for the ideal hit rate.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    pub server_block: u32,
    /// How many of the slowest requests are listed.
    #[arg(long, default_value_t = 5)]
    pub slowest: usize,
    /// Write the report as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write one JSON line for each request.
    #[arg(long, value_name = "FILE")]
    pub jsonl: Option<PathBuf>,
    /// Write the plan, one JSON line for each request, before it is carried out.
    #[arg(long, value_name = "FILE")]
    pub emit_schedule: Option<PathBuf>,
    /// How progress is shown.
    #[arg(long, value_enum, default_value = "auto")]
    pub progress: ProgressMode,
}
