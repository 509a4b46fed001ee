//! A prompt twice, with another between them that takes its pages: the second time its blocks come
//! from the store.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use futures::StreamExt as _;
use rand::RngExt as _;
use serde_json::{Value, json};

use crate::CommonArgs;
use crate::console;
use crate::figures::median;
use crate::fleet::Fleet;

const TOKENS: [usize; 2] = [512, 2_048];
/// Tokens that every vocabulary has and that end no text.
const VOCABULARY: std::ops::Range<u32> = 300..1_200;
/// Room for one prompt of 2,048 tokens and its answer, not for two.
const ROOM: [(&str, &str); 3] =
    [("worker.kv_pages", "136"), ("worker.max_sequences", "2"), ("worker.step_tokens", "512")];
/// What a small model takes on two cores, for lack of a model.
const SIMULATED: [(&str, &str); 4] = [
    ("engine", "simulated"),
    ("simulated.prefill_us_per_token", "500"),
    ("simulated.decode_us_per_step", "5000"),
    ("simulated.block_bytes", "368640"),
];
const ANSWER_LIMIT: Duration = Duration::from_secs(120);
/// For the index to hear of what was stored.
const PAUSE: Duration = Duration::from_millis(300);

/// One prompt length, measured.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Prefix {
    /// The model, or what stands for one.
    pub(super) engine: String,
    /// Of the prompt.
    pub(super) tokens: usize,
    /// Medians.
    pub(super) computed_ms: f64,
    /// When all but the last block came from the store.
    pub(super) stored_ms: f64,
}

impl Prefix {
    /// What of the time is left.
    pub(super) fn ratio(&self) -> f64 {
        self.stored_ms / self.computed_ms
    }
}

/// Both lengths, each so many times.
pub(super) async fn measure(common: &CommonArgs) -> anyhow::Result<Vec<Prefix>> {
    let settings = common.settings.load()?.settings;
    let engine = match &settings.model.path {
        Some(path) => path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        None => "simulated, 0.5 ms a token".to_owned(),
    };
    let simulated = SIMULATED.iter().filter(|_| settings.model.path.is_none());
    let extra: Vec<_> = ROOM.iter().chain(simulated).copied().collect();
    let fleet = Fleet::start(&common.settings, &extra, 1).await?;
    let client = reqwest::Client::builder().timeout(ANSWER_LIMIT).build()?;
    let url = format!("{}/v1/completions", fleet.base);
    let rounds = if common.quick { 1 } else { common.rounds };
    let mut prefixes = Vec::new();
    for tokens in TOKENS {
        let (mut computed, mut stored) = (Vec::new(), Vec::new());
        for round in 1..=rounds {
            console::note(&format!("a prompt of {tokens} tokens, round {round} of {rounds}"));
            let prompt = prompt(tokens);
            computed.push(first_token_ms(&client, &url, &prompt, 0).await?);
            first_token_ms(&client, &url, &self::prompt(TOKENS[1]), 0).await?;
            tokio::time::sleep(PAUSE).await;
            stored.push(first_token_ms(&client, &url, &prompt, tokens - 16).await?);
        }
        let engine = engine.clone();
        let (computed_ms, stored_ms) = (median(computed), median(stored));
        prefixes.push(Prefix { engine, tokens, computed_ms, stored_ms });
    }
    fleet.stop().await?;
    Ok(prefixes)
}

fn prompt(tokens: usize) -> Vec<u32> {
    let mut random = rand::rng();
    (0..tokens).map(|_| random.random_range(VOCABULARY)).collect()
}

/// Milliseconds to the first event of an answer, of whose prompt `cached` tokens or more must have
/// been known; none when that is 0.
async fn first_token_ms(
    client: &reqwest::Client,
    url: &str,
    prompt: &[u32],
    cached: usize,
) -> anyhow::Result<f64> {
    let body = json!({ "prompt": prompt, "max_tokens": 2, "ignore_eos": true, "temperature": 0,
                       "stream": true, "stream_options": { "include_usage": true } });
    let started = Instant::now();
    let answer = client.post(url).json(&body).send().await.context("ask the gateway")?;
    if !answer.status().is_success() {
        bail!("refused: {}", answer.text().await.unwrap_or_default());
    }
    let mut pieces = answer.bytes_stream();
    let (mut first, mut text) = (None, Vec::new());
    while let Some(piece) = pieces.next().await {
        text.extend_from_slice(&piece.context("read an answer")?);
        first.get_or_insert_with(|| started.elapsed());
    }
    let found = cached_tokens(&text).context("an answer without its usage")?;
    let right = if cached == 0 { found == 0 } else { cached <= found };
    ensure!(right, "{found} of {} tokens were known, expected {cached}", prompt.len());
    Ok(first.context("an empty answer")?.as_secs_f64() * 1e3)
}

fn cached_tokens(text: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(text).ok()?;
    let data = text.split("\n\n").filter_map(|event| event.strip_prefix("data: "));
    let usages = data.filter_map(|data| {
        let event: Value = serde_json::from_str(data).ok()?;
        event["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64()
    });
    usages.last().map(|cached| cached as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usage_is_read_from_the_last_event_that_has_one() {
        let text = b"data: {\"usage\":null}\n\ndata: {\"usage\":{\"prompt_tokens_details\":\
            {\"cached_tokens\":496}}}\n\ndata: [DONE]\n\n";
        assert_eq!(cached_tokens(text), Some(496));
        assert_eq!(cached_tokens(b"data: [DONE]\n\n"), None);
    }
}
