//! `loadgen null-server`: flags of the server that makes no tokens.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use super::exit::Ending;
use crate::calibrate::null::{NullOptions, NullServer};
use traces::units::Nanos;

/// What the server pretends.
#[derive(Debug, Args)]
pub struct NullServerArgs {
    /// Where it listens; port 0 is any that is free.
    #[arg(long, default_value = "127.0.0.1:9000")]
    pub listen: String,
    /// Time to the first token.
    #[arg(long, default_value = "20ms")]
    pub ttft: Nanos,
    /// Further time to the first token for each token of the prompt.
    #[arg(long, default_value = "0s")]
    pub ttft_per_token: Nanos,
    /// Time from one token to the next.
    #[arg(long, default_value = "10ms")]
    pub itl: Nanos,
    /// Tokens answered to a request that names no limit.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    pub tokens: u32,
    /// Requests served at once, the others wait in order; no limit unless given.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub slots: Option<u32>,
    /// Prompt and output tokens a request may have together.
    #[arg(long, default_value_t = 131_072)]
    pub context: u32,
    /// The model it says it serves.
    #[arg(long, default_value = "null")]
    pub model: String,
    /// End when standard input ends: whoever holds it open owns this process.
    #[arg(long)]
    pub tethered: bool,
}

impl NullServerArgs {
    /// What they ask for.
    pub fn options(&self) -> NullOptions {
        let duration = |nanos: Nanos| Duration::from_nanos(nanos.0.unsigned_abs());
        NullOptions {
            ttft: duration(self.ttft),
            ttft_per_token: duration(self.ttft_per_token),
            itl: duration(self.itl),
            tokens: self.tokens,
            slots: self.slots.map(|n| n as usize),
            context: self.context,
            model: self.model.clone(),
        }
    }
}

/// Serves until it is stopped.
pub async fn execute(args: NullServerArgs) -> Result<(String, Ending)> {
    let stopped = chassis::tasks::shutdown_signal(args.tethered)?;
    let started = NullServer::start(&args.listen, args.options()).await;
    let mut server = started.with_context(|| format!("cannot listen at {}", args.listen))?;
    {
        // Whoever started it learns the port from this line.
        let mut out = std::io::stdout().lock();
        writeln!(out, "listening at {}", server.url())?;
        out.flush()?;
    }
    tokio::select! {
        error = server.failed() => Err(error).context("the server failed"),
        () = stopped => Ok((String::new(), Ending::Good)),
    }
}
