//! `tandem healthcheck`: for containers, whose images hold no other HTTP client.

use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::http;

/// The endpoint and its time limit.
#[derive(Debug, clap::Args)]
pub(crate) struct HealthcheckArgs {
    /// The endpoint
    #[arg(long, default_value = "http://127.0.0.1:9090/ready")]
    url: String,
    /// Time that it may take to answer
    #[arg(long, default_value_t = 2_000, value_name = "MS")]
    timeout_ms: u64,
}

/// Succeeds when the endpoint answers 200. The error holds any other answer.
pub(crate) async fn run(args: HealthcheckArgs) -> anyhow::Result<()> {
    let limit = Duration::from_millis(args.timeout_ms);
    let http = http::client_for(&args.url).timeout(limit).build().context("prepare HTTP")?;
    let response = http.get(&args.url).send().await.with_context(|| format!("ask {}", args.url))?;
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let body = response.text().await.unwrap_or_default();
    bail!("{} answers {status}: {}", args.url, body.trim());
}
