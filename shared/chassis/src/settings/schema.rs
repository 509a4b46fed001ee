//! The one schema of all settings, its defaults, and the ranges that make sense.

use std::path::PathBuf;
use std::time::Duration;

use protocol::NatsUrl;
use serde::{Deserialize, Serialize};

/// Everything that any service can be told, one section per concern.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What computes: `model`, or `simulated`, which needs no model and only takes its time.
    pub engine: String,
    /// Where models run: `auto`, `cpu`, `wgpu` or `wgpu:N`; to compare with, `reference` or
    /// `reference:wgpu`.
    pub device: String,
    /// Compute threads of a worker; 0 takes as many as there are cores.
    pub threads: usize,
    /// Instructions of the CPU's kernels: `auto`, `avx512`, `avx2` or `portable`.
    pub isa: String,
    /// Precision to which the CPU's kernels round the inputs of quantized layers: `int8`, as other
    /// engines do; `int16`, as good as single precision; or `auto`, which is `int16` for a model of
    /// fewer than 2 billion parameters and `int8` for the others.
    pub activations: String,
    /// How long a service may take to finish its work once it is told to stop.
    pub drain_timeout_ms: u64,
    /// The message bus.
    pub nats: NatsSettings,
    /// The model that is served.
    pub model: ModelSettings,
    /// The HTTP gateway.
    pub gateway: GatewaySettings,
    /// A prefill or decode worker.
    pub worker: WorkerSettings,
    /// What the simulated engine costs.
    pub simulated: SimulatedSettings,
    /// The owner of the stored KV blocks.
    pub kvstore: KvstoreSettings,
    /// Logs and traces.
    pub telemetry: TelemetrySettings,
    /// The health endpoints of services that have no HTTP of their own.
    pub health: HealthSettings,
    /// Where the gateway's page sends those who want to see more.
    pub links: LinksSettings,
}

/// Section `nats`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NatsSettings {
    /// `nats://[user:password@]host:port`, several separated by commas.
    pub url: NatsUrl,
    /// How long one attempt to connect may take.
    pub connect_timeout_ms: u64,
}

/// Section `model`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSettings {
    /// A GGUF file, or a directory with safetensors and `config.json`.
    pub path: Option<PathBuf>,
    /// The name under which it is served; by default its own.
    pub name: Option<String>,
}

/// Section `gateway`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewaySettings {
    /// `host:port` to listen on.
    pub listen: String,
    /// How long a request may take, unless it says itself.
    pub request_timeout_ms: u64,
    /// Requests in flight before further ones are refused.
    pub max_inflight: usize,
    /// The largest request body.
    pub max_body_bytes: usize,
    /// The largest `n` times the number of prompts.
    pub max_choices: usize,
    /// Prefill and decode on different workers: `always`, `never`, or `auto` by predicted cost.
    pub disaggregate: String,
}

/// Section `worker`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerSettings {
    /// The worker's name on the bus; empty makes one from the host name and a random number.
    pub id: String,
    /// Pages of 16 tokens in the KV pool.
    pub kv_pages: usize,
    /// The token budget of one engine step.
    pub step_tokens: usize,
    /// Sequences that run at the same time.
    pub max_sequences: usize,
    /// Sequences that wait for a place before further ones are refused.
    pub queue_sequences: usize,
    /// The share of a step open to prefill, 0 to 1; by default what the role says.
    pub prefill_share: Option<f64>,
}

/// Section `simulated`: a step takes the sum of its costs, in microseconds; 0 is free.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimulatedSettings {
    /// For each token of a prompt.
    pub prefill_us_per_token: f64,
    /// For a step in which any sequence generates.
    pub decode_us_per_step: f64,
    /// For each sequence that generates.
    pub decode_us_per_sequence: f64,
    /// For each token, times the number of tokens before it.
    pub us_per_token_of_context: f64,
    /// The size of a KV block of 16 tokens.
    pub block_bytes: usize,
    /// Draws the tokens.
    pub seed: u64,
}

/// Section `kvstore`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KvstoreSettings {
    /// The size of the store.
    pub max_bytes: u64,
    /// How long an unused block stays.
    pub max_age_s: u64,
    /// The share of the store that one scope may hold, above 0 and up to 1.
    pub quota_share: f64,
}

/// Section `telemetry`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetrySettings {
    /// The OTLP gRPC endpoint for traces; nothing is exported without one.
    pub otlp_endpoint: Option<String>,
    /// The share of new traces that is recorded, 0 to 1.
    pub sample_ratio: f64,
    /// Whether requests outside that share are recorded, too, when they fail, go on elsewhere or
    /// miss `slo`.
    pub keep: bool,
    /// Whether spans carry what was asked and answered.
    pub contents: bool,
    /// What requests must meet not to be kept.
    pub slo: SloSettings,
    /// The log filter, such as `info` or `warn,gateway=debug`.
    pub log: String,
    /// Whether log lines are JSON.
    pub log_json: bool,
}

/// Section `telemetry.slo`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SloSettings {
    /// Longest time to the first token.
    pub ttft_ms: Option<f64>,
    /// Longest time for each token after it.
    pub tpot_ms: Option<f64>,
}

/// Section `health`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthSettings {
    /// `host:port` of `/health`, `/ready` and `/metrics`; port 0 takes a free one.
    pub listen: String,
}

/// Section `links`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinksSettings {
    /// Jaeger's base URL as a browser reaches it; empty shows no link.
    pub jaeger: String,
    /// Grafana's base URL as a browser reaches it; empty shows no link.
    pub grafana: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            engine: "model".to_owned(),
            device: "auto".to_owned(),
            threads: 0,
            isa: "auto".to_owned(),
            activations: "auto".to_owned(),
            drain_timeout_ms: 10_000,
            nats: NatsSettings::default(),
            model: ModelSettings::default(),
            gateway: GatewaySettings::default(),
            worker: WorkerSettings::default(),
            simulated: SimulatedSettings::default(),
            kvstore: KvstoreSettings::default(),
            telemetry: TelemetrySettings::default(),
            health: HealthSettings::default(),
            links: LinksSettings::default(),
        }
    }
}

impl Default for NatsSettings {
    fn default() -> Self {
        Self { url: "nats://127.0.0.1:4222".into(), connect_timeout_ms: 5_000 }
    }
}

impl Default for GatewaySettings {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".to_owned(),
            request_timeout_ms: 120_000,
            max_inflight: 256,
            max_body_bytes: 4 << 20,
            max_choices: 16,
            disaggregate: "always".to_owned(),
        }
    }
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            id: String::new(),
            kv_pages: 1_024,
            step_tokens: 256,
            max_sequences: 32,
            queue_sequences: 64,
            prefill_share: None,
        }
    }
}

impl Default for SimulatedSettings {
    fn default() -> Self {
        Self {
            prefill_us_per_token: 0.0,
            decode_us_per_step: 0.0,
            decode_us_per_sequence: 0.0,
            us_per_token_of_context: 0.0,
            block_bytes: 4_096,
            seed: 0,
        }
    }
}

impl Default for KvstoreSettings {
    fn default() -> Self {
        Self { max_bytes: 2 << 30, max_age_s: 3_600, quota_share: 1.0 }
    }
}

impl Default for TelemetrySettings {
    fn default() -> Self {
        Self {
            otlp_endpoint: None,
            sample_ratio: 1.0,
            keep: true,
            contents: false,
            slo: SloSettings::default(),
            log: "info".to_owned(),
            log_json: false,
        }
    }
}

impl Default for HealthSettings {
    fn default() -> Self {
        Self { listen: "127.0.0.1:0".to_owned() }
    }
}

impl Settings {
    /// [`drain_timeout_ms`](Self::drain_timeout_ms) as a duration.
    pub fn drain_timeout(&self) -> Duration {
        Duration::from_millis(self.drain_timeout_ms)
    }

    /// Settings with every optional value present: they show the type of each key.
    pub(super) fn filled() -> Self {
        let model =
            ModelSettings { path: Some(PathBuf::from("model.gguf")), name: Some(String::new()) };
        let mut settings = Self { model, ..Self::default() };
        settings.worker.prefill_share = Some(1.0);
        settings.telemetry.otlp_endpoint = Some(String::new());
        settings.telemetry.slo = SloSettings { ttft_ms: Some(1.0), tpot_ms: Some(1.0) };
        settings
    }

    /// The keys whose values make no sense, each with what was expected.
    pub(super) fn out_of_range(&self) -> Vec<(&'static str, &'static str)> {
        const HOUR_MS: u64 = 3_600_000;
        let Self { nats, gateway, worker, simulated, kvstore, telemetry, .. } = self;
        let cost = |us: f64| (0.0..=1e9).contains(&us);
        let ratio = |value: f64| (0.0..=1.0).contains(&value);
        let checks = [
            ("engine", matches!(self.engine.as_str(), "model" | "simulated"), "model or simulated"),
            (
                "device",
                is_device(&self.device),
                "auto, cpu, wgpu, wgpu:N, reference or reference:wgpu",
            ),
            ("threads", self.threads <= 1_024, "at most 1024"),
            ("isa", is_isa(&self.isa), "auto, avx512, avx2 or portable"),
            ("activations", is_precision(&self.activations), "auto, int8 or int16"),
            ("drain_timeout_ms", self.drain_timeout_ms <= HOUR_MS, "at most 3600000"),
            ("nats.url", are_nats_urls(&nats.url), "nats://host:port, or tls://host:port"),
            ("nats.connect_timeout_ms", (1..=HOUR_MS).contains(&nats.connect_timeout_ms), TIME),
            ("gateway.listen", has_port(&gateway.listen), HOST_PORT),
            (
                "gateway.request_timeout_ms",
                (1..=HOUR_MS).contains(&gateway.request_timeout_ms),
                TIME,
            ),
            ("gateway.max_inflight", (1..=65_536).contains(&gateway.max_inflight), "1 to 65536"),
            ("gateway.max_body_bytes", (1_024..=1 << 30).contains(&gateway.max_body_bytes), BODY),
            ("gateway.max_choices", (1..=1_024).contains(&gateway.max_choices), "1 to 1024"),
            ("gateway.disaggregate", is_policy(&gateway.disaggregate), "always, never or auto"),
            ("worker.id", is_subject_token(&worker.id), "letters, digits, '-' and '_'"),
            ("worker.kv_pages", (2..=1 << 24).contains(&worker.kv_pages), "2 to 16777216"),
            ("worker.step_tokens", (1..=65_536).contains(&worker.step_tokens), "1 to 65536"),
            ("worker.max_sequences", (1..=4_096).contains(&worker.max_sequences), "1 to 4096"),
            ("worker.queue_sequences", worker.queue_sequences <= 65_536, "at most 65536"),
            ("worker.prefill_share", worker.prefill_share.is_none_or(ratio), "0 to 1"),
            ("simulated.prefill_us_per_token", cost(simulated.prefill_us_per_token), COST),
            ("simulated.decode_us_per_step", cost(simulated.decode_us_per_step), COST),
            ("simulated.decode_us_per_sequence", cost(simulated.decode_us_per_sequence), COST),
            ("simulated.us_per_token_of_context", cost(simulated.us_per_token_of_context), COST),
            ("simulated.block_bytes", (144..=16 << 20).contains(&simulated.block_bytes), BLOCK),
            ("kvstore.max_bytes", kvstore.max_bytes >= 1 << 20, "at least 1048576 (1 MiB)"),
            ("kvstore.max_age_s", kvstore.max_age_s >= 1, "at least 1"),
            ("kvstore.quota_share", ratio(kvstore.quota_share) && kvstore.quota_share > 0.0, QUOTA),
            ("telemetry.otlp_endpoint", is_http(telemetry.otlp_endpoint.as_deref()), HTTP),
            ("telemetry.sample_ratio", ratio(telemetry.sample_ratio), "0 to 1"),
            ("telemetry.slo.ttft_ms", is_slo(telemetry.slo.ttft_ms), SLO),
            ("telemetry.slo.tpot_ms", is_slo(telemetry.slo.tpot_ms), SLO),
            ("health.listen", has_port(&self.health.listen), HOST_PORT),
            ("links.jaeger", is_link(&self.links.jaeger), HTTP),
            ("links.grafana", is_link(&self.links.grafana), HTTP),
        ];
        checks
            .into_iter()
            .filter(|(_, holds, _)| !holds)
            .map(|(key, _, text)| (key, text))
            .collect()
    }
}

const TIME: &str = "1 to 3600000 milliseconds";
const HOST_PORT: &str = "host:port";
const BODY: &str = "1024 to 1073741824 bytes";
const QUOTA: &str = "above 0 and at most 1";
const COST: &str = "0 to 1000000000 microseconds";
const BLOCK: &str = "144 to 16777216 bytes";
const SLO: &str = "above 0 and at most 3600000 milliseconds";
const HTTP: &str = "http://host:port";

fn is_device(text: &str) -> bool {
    match text.split_once(':') {
        None => matches!(text, "auto" | "cpu" | "wgpu" | "reference"),
        Some(("reference", device)) => device.starts_with("wgpu") && is_device(device),
        Some((name, index)) => name == "wgpu" && index.parse::<u16>().is_ok(),
    }
}

fn is_isa(text: &str) -> bool {
    matches!(text, "auto" | "avx512" | "avx2" | "portable")
}

fn is_precision(text: &str) -> bool {
    matches!(text, "auto" | "int8" | "int16")
}

fn is_policy(text: &str) -> bool {
    matches!(text, "always" | "never" | "auto")
}

fn has_port(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

fn are_nats_urls(url: &NatsUrl) -> bool {
    url.servers().all(|url| match url.split_once("://") {
        Some((scheme, rest)) => matches!(scheme, "nats" | "tls" | "ws" | "wss") && !rest.is_empty(),
        None => !url.is_empty(),
    })
}

fn is_http(endpoint: Option<&str>) -> bool {
    endpoint.is_none_or(|url| url.starts_with("http://") || url.starts_with("https://"))
}

fn is_link(url: &str) -> bool {
    url.is_empty() || is_http(Some(url))
}

fn is_slo(ms: Option<f64>) -> bool {
    ms.is_none_or(|ms| 0.0 < ms && ms <= 3_600_000.0)
}

fn is_subject_token(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}
