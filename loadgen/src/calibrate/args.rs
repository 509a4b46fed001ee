//! Flags of `loadgen calibrate`.

use std::path::PathBuf;

use clap::Args;
use traces::units::Nanos;

/// Load and length of the steps.
#[derive(Debug, Args)]
pub struct CalibrateArgs {
    /// Streams at once, one step after the other. The ramp ends at the first step that fails.
    #[arg(long, value_delimiter = ',', default_value = "500,1000,2500,5000",
          value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub streams: Vec<u32>,
    /// Time from one token of a stream to the next.
    #[arg(long, default_value = "100ms")]
    pub itl: Nanos,
    /// Tokens of a stream.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(2..=10_000))]
    pub tokens: u32,
    /// Measured time of each step, after all streams have started.
    #[arg(long, default_value = "5s")]
    pub hold: Nanos,
    /// Write the figures as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Exit with status 3 unless a step of this many streams succeeds.
    #[arg(long, value_name = "STREAMS")]
    pub require: Option<u32>,
}
