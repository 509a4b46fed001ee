//! `loadgen null-server`: serves the null server.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use traces::units::Nanos;

use super::exit::Ending;
use crate::calibrate::null::{NullOptions, NullServer};

/// Settings of the null server.
#[derive(Debug, Args)]
pub struct NullServerArgs {
    /// Address to listen at; port 0 is any free port.
    #[arg(long, default_value = "127.0.0.1:9000")]
    pub listen: String,
    /// Time to the first token.
    #[arg(long, default_value = "20ms")]
    pub ttft: Nanos,
    /// Additional time to the first token per token of the prompt.
    #[arg(long, default_value = "0s")]
    pub ttft_per_token: Nanos,
    /// Time from one token to the next.
    #[arg(long, default_value = "10ms")]
    pub itl: Nanos,
    /// Number of tokens for a request without a limit.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    pub tokens: u32,
    /// Number of requests served at once; the others wait in order. Default: no limit.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub slots: Option<u32>,
    /// Largest sum of prompt and output tokens of a request.
    #[arg(long, default_value_t = 131_072)]
    pub context: u32,
    /// Name of the model.
    #[arg(long, default_value = "null")]
    pub model: String,
    /// End when standard input ends, so that the process ends with its parent.
    #[arg(long)]
    pub tethered: bool,
}

impl NullServerArgs {
    /// Converts the flags.
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

/// Serves until a signal stops the server.
pub async fn execute(args: NullServerArgs) -> Result<(String, Ending)> {
    let stopped = chassis::tasks::shutdown_signal(args.tethered)?;
    let started = NullServer::start(&args.listen, args.options()).await;
    let mut server = started.with_context(|| format!("cannot listen at {}", args.listen))?;
    {
        // The parent process reads the port from this line.
        let mut out = std::io::stdout().lock();
        writeln!(out, "listening at {}", server.url())?;
        out.flush()?;
    }
    tokio::select! {
        error = server.failed() => Err(error).context("the server failed"),
        () = stopped => Ok((String::new(), Ending::Good)),
    }
}
