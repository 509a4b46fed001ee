//! A prompt twice, with another between that takes its pages: the second time its blocks come from
//! the store.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use loadgen::plan::body::Endpoint;
use loadgen::plan::prompt::Prompt;
use rand::RngExt as _;

use crate::CommonArgs;
use crate::console;
use crate::figures::median;
use crate::fleet::Fleet;
use crate::load::LoadClient;

const TOKENS: [usize; 2] = [512, 2_048];
/// Token ids that every vocabulary has and that end no text.
const VOCABULARY: std::ops::Range<u32> = 300..1_200;
/// Room for one prompt of 2,048 tokens and its answer, not for two.
const ROOM: [(&str, &str); 3] =
    [("worker.kv_pages", "136"), ("worker.max_sequences", "2"), ("worker.step_tokens", "512")];
/// The speed of a small model on two cores, for a run without a model.
const SIMULATED: [(&str, &str); 4] = [
    ("engine", "simulated"),
    ("simulated.prefill_us_per_token", "500"),
    ("simulated.decode_us_per_step", "5000"),
    ("simulated.block_bytes", "368640"),
];
const OUTPUT_TOKENS: u32 = 2;
/// The delay until the index knows the stored blocks.
const PAUSE: Duration = Duration::from_millis(300);

/// The figures of one prompt length.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Prefix {
    /// The model, or a description of the simulated engine.
    pub(super) engine: String,
    /// Length of the prompt.
    pub(super) tokens: usize,
    /// Median TTFT when the prompt was computed.
    pub(super) computed_ms: f64,
    /// Median TTFT when all but the last block came from the store.
    pub(super) stored_ms: f64,
}

impl Prefix {
    /// Returns the TTFT from the store as a share of the computed one.
    pub(super) fn ratio(&self) -> f64 {
        self.stored_ms / self.computed_ms
    }
}

/// Measures all prompt lengths.
pub(super) async fn measure(common: &CommonArgs) -> anyhow::Result<Vec<Prefix>> {
    let settings = common.settings.load()?.settings;
    let engine = match &settings.model.path {
        Some(path) => path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        None => "simulated, 0.5 ms a token".to_owned(),
    };
    let simulated = SIMULATED.iter().filter(|_| settings.model.path.is_none());
    let extra: Vec<_> = ROOM.iter().chain(simulated).copied().collect();
    let fleet = Fleet::start(&common.settings, &extra, 1).await?;
    let client = LoadClient::connect(&fleet.base).await?;
    let rounds = if common.quick { 1 } else { common.rounds };
    let mut prefixes = Vec::new();
    for tokens in TOKENS {
        let (mut computed, mut stored) = (Vec::new(), Vec::new());
        for round in 1..=rounds {
            console::note(&format!("a prompt of {tokens} tokens, round {round} of {rounds}"));
            let prompt = prompt(tokens);
            computed.push(ttft_ms(&client, &prompt, 0).await?);
            ttft_ms(&client, &self::prompt(TOKENS[1]), 0).await?;
            tokio::time::sleep(PAUSE).await;
            stored.push(ttft_ms(&client, &prompt, tokens as u64 - 16).await?);
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

/// Measures the TTFT of a prompt of which `cached` tokens or more must come from the cache, or none
/// if that is 0.
async fn ttft_ms(client: &LoadClient, prompt: &[u32], cached: u64) -> anyhow::Result<f64> {
    let tokens = Prompt::Tokens(prompt.to_vec());
    let (sample, reply) = client.request(Endpoint::Completions, tokens, OUTPUT_TOKENS).await?;
    let found = reply.usage.and_then(|usage| usage.cached_tokens);
    let found = found.context("the response does not report cached tokens")?;
    let right = if cached == 0 { found == 0 } else { found >= cached };
    ensure!(right, "{found} of {} tokens were cached, expected {cached}", prompt.len());
    Ok(sample.ttft_ms)
}
