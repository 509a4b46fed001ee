//! Streaming requests to a gateway, over loadgen's HTTP client, one by one or in a closed loop.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, ensure};
use loadgen::plan::body::{BodyTemplate, Endpoint};
use loadgen::plan::prompt::Prompt;
use loadgen::send::client::{Call, Client, ServerAddress};
use loadgen::send::clock::Clock;
use loadgen::send::identity::Identity;
use loadgen::send::live::Live;
use loadgen::send::record::RequestRecord;
use loadgen::send::reply::Reply;
use protocol::simulated;
use rand::RngExt as _;
use serde_json::Map;
use tokio::task::JoinSet;

/// Words of a prompt of the closed loop.
pub(super) const PROMPT_WORDS: usize = 100;
/// Tokens of a response of the closed loop.
pub(super) const OUTPUT_TOKENS: u32 = 16;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(120);

/// The times of one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// From sending to the first token, in milliseconds.
    pub(super) ttft_ms: f64,
    /// From sending to the end of the response, in milliseconds.
    pub(super) e2e_ms: f64,
}

/// A client of one gateway.
pub(super) struct LoadClient {
    client: Client,
    model: String,
    identity: Identity,
    clock: Clock,
    live: Live,
    requests: AtomicUsize,
}

impl LoadClient {
    /// Connects to the gateway at `base` and asks for the name of its model.
    pub(super) async fn connect(base: &str) -> anyhow::Result<Self> {
        // Every request asks for a trace, which a gateway without an exporter ignores.
        let identity = Identity::random(1.0);
        let client = Client::new(ServerAddress::at(base), CONNECT_TIMEOUT, &identity.run_id())?;
        let models = client.models(RESPONSE_TIMEOUT).await?;
        let model = models.into_iter().next().with_context(|| format!("{base} has no model"))?;
        Ok(Self {
            client,
            model: model.id,
            identity,
            clock: Clock::starting_in(Duration::ZERO),
            live: Live::default(),
            requests: AtomicUsize::new(0),
        })
    }

    /// Sends a request and reads its response to the end. The response must have `output_tokens`.
    pub(super) async fn request(
        &self,
        endpoint: Endpoint,
        prompt: Prompt,
        output_tokens: u32,
    ) -> anyhow::Result<(Sample, Reply)> {
        let template = BodyTemplate {
            endpoint,
            model: self.model.clone(),
            temperature: 0.0,
            ignore_eos: true,
            extra: Map::new(),
        };
        let body = template.body(prompt, output_tokens);
        let index = self.requests.fetch_add(1, Ordering::Relaxed);
        let ids = self.identity.of(index);
        let sent_ns = self.clock.now_ns();
        let traceparent = ids.traceparent.clone();
        let mut record = RequestRecord::new(index, sent_ns, ids);
        let call = Call { endpoint, body, traceparent };
        let exchange = self.client.exchange(call, self.clock, &self.live, &mut record);
        tokio::time::timeout(RESPONSE_TIMEOUT, exchange)
            .await
            .with_context(|| format!("no response within {} s", RESPONSE_TIMEOUT.as_secs()))?
            .map_err(|failure| anyhow!("{}: {}", failure.class, failure.message))?;
        let e2e_ms = (self.clock.now_ns() - sent_ns) as f64 / 1e6;
        let tokens = record.reply.output_tokens();
        ensure!(
            tokens == u64::from(output_tokens),
            "the response has {tokens} tokens, expected {output_tokens}"
        );
        let ttft_ns = record.ttft_ns(sent_ns).context("the response has no text")?;
        Ok((Sample { ttft_ms: ttft_ns as f64 / 1e6, e2e_ms }, record.reply))
    }
}

/// Keeps `connections` requests in flight for `duration`; returns the times of those that began
/// within it.
pub(super) async fn closed_loop(
    client: &Arc<LoadClient>,
    connections: usize,
    duration: Duration,
) -> anyhow::Result<Vec<Sample>> {
    let deadline = Instant::now() + duration;
    let mut users = JoinSet::new();
    for _ in 0..connections {
        let client = client.clone();
        users.spawn(async move {
            let mut samples = Vec::new();
            while Instant::now() < deadline {
                let prompt = Prompt::Text(prompt());
                let (sample, _) = client.request(Endpoint::Chat, prompt, OUTPUT_TOKENS).await?;
                samples.push(sample);
            }
            anyhow::Ok(samples)
        });
    }
    let mut samples = Vec::new();
    while let Some(user) = users.join_next().await {
        samples.extend(user.context("run a user of the closed loop")??);
    }
    Ok(samples)
}

/// Returns a random prompt, so that no request reuses the blocks of another.
fn prompt() -> String {
    let words = simulated::words();
    let mut random = rand::rng();
    (0..PROMPT_WORDS)
        .map(|_| words[random.random_range(0..words.len())])
        .collect::<Vec<_>>()
        .join(" ")
}
