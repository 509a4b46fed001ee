//! Flags of a load: synthetic, replayed from a trace, or read from a schedule.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use traces::Format;
use traces::quantum::Dequantize;
use traces::units::{Nanos, Range, Window};

use crate::plan::messages::Messages;
use crate::plan::{OnTooLong, Turns};

/// Form of the prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PromptAs {
    /// Token ids, exact; completions only.
    Tokens,
    /// Text; exact with --vocab-tokenizer, of common words without.
    Text,
}

/// Arrival process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ArrivalKind {
    /// Exponential gaps.
    Poisson,
    /// Constant gaps.
    Constant,
    /// Gamma gaps with --cv.
    Gamma,
    /// Weibull gaps with --shape.
    Weibull,
    /// Poisson bursts of --on with --off of silence between them, on average.
    OnOff,
    /// Poisson with a rate that follows a sine, by --swing in --period.
    Diurnal,
}

/// Distribution of think times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Think {
    /// Constant.
    Constant,
    /// Exponential.
    Exponential,
}

/// The requests.
#[derive(Debug, Args)]
#[command(next_help_heading = "Load")]
pub struct LoadArgs {
    /// Requests per second.
    #[arg(
        long,
        required_unless_present_any = ["trace", "schedule", "users", "rate_series"],
        conflicts_with_all = ["trace", "schedule", "users", "rate_series"]
    )]
    pub rate: Option<f64>,
    /// Rates over time: a CSV file of START,RATE rows in seconds and requests per second, and a
    /// last row with only the end.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["trace", "schedule", "users"])]
    pub rate_series: Option<PathBuf>,
    /// Arrival process.
    #[arg(long, value_enum, default_value = "poisson")]
    pub arrivals: ArrivalKind,
    /// Parameters of the arrival process.
    #[command(flatten)]
    pub shaping: ShapingArgs,
    /// Flags of a closed loop.
    #[command(flatten)]
    pub closed: ClosedArgs,
    /// Largest number of requests.
    #[arg(long)]
    pub requests: Option<usize>,
    /// Length of the load.
    #[arg(long, conflicts_with_all = ["trace", "schedule"])]
    pub duration: Option<Nanos>,
    /// Continue the load after its end, for at most this long, until every measured request is
    /// over, so that the last ones are measured under the same load.
    #[arg(long, value_name = "TIME", conflicts_with_all = ["users", "schedule"])]
    pub cooldown: Option<Nanos>,
    /// Prompt tokens, N or LO..HI.
    #[arg(long, default_value = "128", conflicts_with_all = ["trace", "schedule"])]
    pub input_tokens: Range,
    /// Output tokens, N or LO..HI.
    #[arg(long, default_value = "32", conflicts_with_all = ["trace", "schedule"])]
    pub output_tokens: Range,
    /// Seed of every random choice.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Form of the prompts. Default: tokens on completions, text on chat.
    #[arg(long, value_enum)]
    pub prompt_as: Option<PromptAs>,
    /// Messages of a chat that replays sessions.
    #[arg(long, value_enum, default_value = "turns")]
    pub messages: Messages,
    /// Tokenizer of the model (GGUF or tokenizer.json). Prompts then consist of its words.
    #[arg(long, value_name = "FILE")]
    pub vocab_tokenizer: Option<PathBuf>,
    /// Token ids of prompts without a tokenizer, LO..HI with HI excluded. Default: 1000..40000, or
    /// fewer if the server reports a smaller vocabulary.
    #[arg(long)]
    pub token_ids: Option<Range>,
    /// Treatment of requests that exceed the server's context.
    #[arg(long, value_enum, default_value = "skip")]
    pub on_too_long: OnTooLong,
}

/// Parameters of the arrival process.
#[derive(Debug, Args)]
pub struct ShapingArgs {
    /// Coefficient of variation of gamma gaps.
    #[arg(long, default_value_t = 2.0)]
    pub cv: f64,
    /// Shape of Weibull gaps; bursty below 1.
    #[arg(long, default_value_t = 0.7)]
    pub shape: f64,
    /// Mean length of a burst.
    #[arg(long, default_value = "10s")]
    pub on: Nanos,
    /// Mean length of the silence between two bursts.
    #[arg(long, default_value = "30s")]
    pub off: Nanos,
    /// Amplitude of a diurnal rate, as a share of its mean.
    #[arg(long, default_value_t = 0.8)]
    pub swing: f64,
    /// Period of a diurnal rate.
    #[arg(long, default_value = "1h")]
    pub period: Nanos,
}

/// Flags of a closed loop.
#[derive(Debug, Args)]
pub struct ClosedArgs {
    /// Closed loop of this many users, each of whom waits for a response before the next request.
    /// Needs --requests, for all users together; --duration may end it earlier.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), requires = "requests")]
    pub users: Option<u32>,
    /// Mean think time of a user between a response and the next request.
    #[arg(long, default_value = "0s", requires = "users")]
    pub think_time: Nanos,
    /// Distribution of think times.
    #[arg(long, value_enum, default_value = "exponential", requires = "users")]
    pub think: Think,
}

/// A trace to replay.
#[derive(Debug, Args)]
#[command(next_help_heading = "Trace replay")]
pub struct ReplayArgs {
    /// Trace to replay: a file or a folder.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["users", "schedule"])]
    pub trace: Option<PathBuf>,
    /// Schedule to replay, written by --emit-schedule.
    #[arg(long, value_name = "FILE", conflicts_with = "users")]
    pub schedule: Option<PathBuf>,
    /// Format of the trace. Default: detected from its content.
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Tokens per block of a trace that does not state it. Default: the publisher's size.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub trace_block: Option<u32>,
    /// Refuse a trace with oddities, which are otherwise counted.
    #[arg(long, requires = "trace")]
    pub strict: bool,
    /// Trace seconds per second of the replay.
    #[arg(long, default_value_t = 1.0)]
    pub speedup: f64,
    /// Window of trace time, FROM..TO.
    #[arg(long)]
    pub window: Option<Window>,
    /// Divisor of lengths and block sizes.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub scale: u32,
    /// Treatment of time stamps that lie on a coarse grid.
    #[arg(long, value_enum, default_value = "none")]
    pub dequantize: Dequantize,
    /// Times of the later turns of a session: their own, or their think time after the preceding
    /// response.
    #[arg(long, value_enum, default_value = "open")]
    pub turns: Turns,
    /// Rate at which sessions start, or requests of a trace without times.
    #[arg(long, value_name = "PER_SECOND", requires = "trace")]
    pub session_rate: Option<f64>,
    /// Start at this trace time, before the window, and do not measure the requests before the
    /// window. They fill the cache.
    #[arg(long, value_name = "TIME", requires = "window")]
    pub prefill_cache_from: Option<Nanos>,
}
