//! Flags of a load: which requests are sent, made up or replayed.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::plan::{OnTooLong, Turns};
use traces::Format;
use traces::quantum::Dequantize;
use traces::units::{Nanos, Range, Window};

/// How prompts are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PromptAs {
    /// Token ids, exact; completions only.
    Tokens,
    /// Text; exact with --vocab-tokenizer, of common words without.
    Text,
}

/// How arrivals are distributed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ArrivalKind {
    /// Exponential gaps.
    Poisson,
    /// Every gap the same.
    Constant,
    /// Gamma gaps with --cv.
    Gamma,
    /// Weibull gaps with --shape.
    Weibull,
    /// Poisson bursts of --on with --off of silence between them, on average.
    OnOff,
    /// Poisson with a rate that swings as a sine, by --swing in --period.
    Diurnal,
}

/// How long users think.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Think {
    /// Always so long.
    Constant,
    /// Exponentially distributed.
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
    /// Rates over time: a CSV file of START,RATE rows in seconds and requests per second, and a last
    /// row with only the end.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["trace", "schedule", "users"])]
    pub rate_series: Option<PathBuf>,
    /// How arrivals are distributed.
    #[arg(long, value_enum, default_value = "poisson")]
    pub arrivals: ArrivalKind,
    /// What shapes them.
    #[command(flatten)]
    pub shaping: ShapingArgs,
    /// A closed loop of so many users.
    #[command(flatten)]
    pub closed: ClosedArgs,
    /// At most this many requests.
    #[arg(long)]
    pub requests: Option<usize>,
    /// How long requests are offered.
    #[arg(long, conflicts_with_all = ["trace", "schedule"])]
    pub duration: Option<Nanos>,
    /// Go on with the load behind its end, for at most this long, until every measured request is
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
    /// How prompts are sent: tokens on completions, text on chat unless given.
    #[arg(long, value_enum)]
    pub prompt_as: Option<PromptAs>,
    /// Tokenizer of the model (GGUF or tokenizer.json); prompts are then made of its words.
    #[arg(long, value_name = "FILE")]
    pub vocab_tokenizer: Option<PathBuf>,
    /// Token ids that prompts are made of without a tokenizer, LO..HI with HI left out; unless
    /// given 1000..40000, or what the server says it has where that is less.
    #[arg(long)]
    pub token_ids: Option<Range>,
    /// What happens to requests that exceed the server's context.
    #[arg(long, value_enum, default_value = "skip")]
    pub on_too_long: OnTooLong,
}

/// What shapes arrivals.
#[derive(Debug, Args)]
pub struct ShapingArgs {
    /// Coefficient of variation of gamma gaps.
    #[arg(long, default_value_t = 2.0)]
    pub cv: f64,
    /// Shape of Weibull gaps; below 1 they come in bursts.
    #[arg(long, default_value_t = 0.7)]
    pub shape: f64,
    /// Mean length of a burst.
    #[arg(long, default_value = "10s")]
    pub on: Nanos,
    /// Mean length of the silence between two.
    #[arg(long, default_value = "30s")]
    pub off: Nanos,
    /// How far a diurnal rate swings, as a part of its mean.
    #[arg(long, default_value_t = 0.8)]
    pub swing: f64,
    /// How long one swing takes.
    #[arg(long, default_value = "1h")]
    pub period: Nanos,
}

/// A closed loop.
#[derive(Debug, Args)]
pub struct ClosedArgs {
    /// Closed loop: so many users, each of whom waits for an answer before the next request. Needs
    /// --requests, for all of them together; --duration may end it earlier.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), requires = "requests")]
    pub users: Option<u32>,
    /// How long a user thinks between an answer and the next request, on average.
    #[arg(long, default_value = "0s", requires = "users")]
    pub think_time: Nanos,
    /// How think times are distributed.
    #[arg(long, value_enum, default_value = "exponential", requires = "users")]
    pub think: Think,
}

/// A trace to replay.
#[derive(Debug, Args)]
#[command(next_help_heading = "Trace replay")]
pub struct ReplayArgs {
    /// The trace: a file or a folder.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["users", "schedule"])]
    pub trace: Option<PathBuf>,
    /// A schedule that --emit-schedule wrote.
    #[arg(long, value_name = "FILE", conflicts_with = "users")]
    pub schedule: Option<PathBuf>,
    /// The trace's format; found out from its content unless given.
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Tokens in a block of a trace that does not say; what its publishers use unless given.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub trace_block: Option<u32>,
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
    /// When the later turns of a session are due: at their times, or their think time after the
    /// answer before.
    #[arg(long, value_enum, default_value = "open")]
    pub turns: Turns,
    /// Begin sessions, or the requests of a trace without times, at this rate.
    #[arg(long, value_name = "PER_SECOND", requires = "trace")]
    pub session_rate: Option<f64>,
    /// Begin at this trace time, before the window, and do not measure what arrives before it: the
    /// cache is then as full as it was.
    #[arg(long, value_name = "TIME", requires = "window")]
    pub prefill_cache_from: Option<Nanos>,
}
