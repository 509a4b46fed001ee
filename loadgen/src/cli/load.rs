//! Flags of a load: which requests are sent, made up or replayed.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::arrivals::Arrivals;
use crate::plan::OnTooLong;
use crate::trace::Format;
use crate::trace::shape::Dequantize;
use crate::units::{Nanos, Range, Window};

/// How prompts are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PromptAs {
    /// Token ids, exact; completions only.
    Tokens,
    /// Text; exact with --vocab-tokenizer, of common words without.
    Text,
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
