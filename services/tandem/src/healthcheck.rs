//! `tandem healthcheck`: for containers, whose images hold no other HTTP client.

use std::time::Duration;

use anyhow::{Context as _, bail};

/// What to ask.
#[derive(Debug, clap::Args)]
pub(crate) struct HealthcheckArgs {
    /// The endpoint
    #[arg(long, default_value = "http://127.0.0.1:9090/ready")]
    url: String,
    /// How long it may take to answer
    #[arg(long, default_value_t = 2_000, value_name = "MS")]
    timeout_ms: u64,
}

/// Succeeds when the endpoint answers 200; otherwise says what it answered.
pub(crate) async fn run(args: HealthcheckArgs) -> anyhow::Result<()> {
    let limit = Duration::from_millis(args.timeout_ms);
    let http = reqwest::Client::builder().timeout(limit).build().context("prepare HTTP")?;
    let response = http.get(&args.url).send().await.with_context(|| format!("ask {}", args.url))?;
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let body = response.text().await.unwrap_or_default();
    bail!("{} answers {status}: {}", args.url, body.trim());
}
