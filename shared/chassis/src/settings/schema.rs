//! The one schema of all settings: each key once, with its meaning, type, default and limit.
//!
//! A line of a section reads `name: type = default, limit;`. `tandem config --describe` and
//! `docs/configuration.md` are made of these lines.

use std::path::PathBuf;
use std::time::Duration;

use protocol::NatsUrl;
use serde::{Deserialize, Serialize};

use super::key::{
    HasKind, Key, Section, above_zero_to, anything, at_least, between, join, nats_urls, optional,
    section, text,
};
use super::values::{Activations, Device, Disaggregate, Engine, GenerationConfig, Isa, one_of};

const HOUR_MS: u64 = 3_600_000;
const HOUR: f64 = HOUR_MS as f64;
/// The largest cost of the simulated engine.
const COST_US_MAX: f64 = 1e9;

section! {
    /// The settings of every service, one section per concern.
    Settings {
        /// The computation behind a worker: `model`, or `simulated`, which needs no model and only
        /// takes its time.
        engine: Engine = Engine::Model, one_of();
        /// The device that runs the model. `auto` takes a real GPU where there is one, else the
        /// CPU. `reference` and `reference:wgpu` run stock operations, to compare with.
        device: Device = Device::Auto, anything(Device::EXPECTED);
        /// Compute threads of a worker; 0 takes as many as there are cores.
        threads: usize = 0, between(0, 1_024);
        /// The instructions of the CPU's kernels; `auto` takes the widest that the machine has.
        isa: Isa = Isa::Auto, one_of();
        /// The precision to which the CPU's kernels round the inputs of quantized layers: `int8`, as
        /// other engines do; `int16`, as good as single precision; or `auto`, which is `int16` for
        /// a model of fewer than 2 billion parameters and `int8` for the others.
        activations: Activations = Activations::Auto, one_of();
        /// The time that a service has to finish its work after it is asked to stop.
        drain_timeout_ms: u64 = 10_000, between(0, HOUR_MS);
        sections {
            /// The message bus.
            nats: NatsSettings;
            /// The model that is served.
            model: ModelSettings;
            /// The HTTP gateway.
            gateway: GatewaySettings;
            /// A prefill or decode worker.
            worker: WorkerSettings;
            /// The costs of the simulated engine.
            simulated: SimulatedSettings;
            /// The service that manages the stored KV blocks.
            kvstore: KvstoreSettings;
            /// Logs and traces.
            telemetry: TelemetrySettings;
            /// The health endpoints of services that have no HTTP of their own.
            health: HealthSettings;
            /// Links of the gateway's page.
            links: LinksSettings;
        }
    }
}

section! {
    /// Section `nats`.
    NatsSettings {
        /// The URL of the NATS server, `nats://[user:password@]host:port` or `tls://…`; several
        /// are separated by commas.
        url: NatsUrl = "nats://127.0.0.1:4222".into(),
            nats_urls("nats://host:port, or tls://host:port");
        /// The time that one attempt to connect may take.
        connect_timeout_ms: u64 = 5_000, between(1, HOUR_MS);
    }
}

section! {
    /// Section `model`.
    ModelSettings {
        /// A GGUF file, a directory with safetensors and `config.json`, or `hf:owner/repo[:file]`.
        path: Option<PathBuf> = None, anything("a path, or hf:owner/repo[:file]");
        /// The name under which the model is served; by default its own.
        name: Option<String> = None, anything("text");
        /// The source of the sampling parameters that a request leaves out: `file` takes the model's
        /// own (`generation_config.json`, or `general.sampling.*` of a GGUF file), `none` the
        /// defaults of the API.
        generation_config: GenerationConfig = GenerationConfig::File, one_of();
    }
}

section! {
    /// Section `gateway`.
    GatewaySettings {
        /// The address to listen on.
        listen: String = "127.0.0.1:8080".to_owned(), text("host:port", has_port);
        /// The time that a request may take, unless the request itself says.
        request_timeout_ms: u64 = 120_000, between(1, HOUR_MS);
        /// Requests in flight before further ones are refused.
        max_inflight: usize = 256, between(1, 65_536);
        /// The size of the largest request body.
        max_body_bytes: usize = 4 << 20, between(1_024, 1 << 30);
        /// The largest `n` times the number of prompts.
        max_choices: usize = 16, between(1, 1_024);
        /// The use of different workers for prefill and decode; `auto` compares predicted costs.
        disaggregate: Disaggregate = Disaggregate::Always, one_of();
    }
}

section! {
    /// Section `worker`.
    WorkerSettings {
        /// The worker's name on the bus; empty makes one from the host name and a random number.
        id: String = String::new(), text("letters, digits, '-' and '_'", is_subject_token);
        /// Pages of 16 tokens in the KV pool.
        kv_pages: usize = 1_024, between(2, 1 << 24);
        /// The token budget of one engine step.
        step_tokens: usize = 256, between(1, 65_536);
        /// Sequences that run at the same time.
        max_sequences: usize = 32, between(1, 4_096);
        /// Sequences that wait for a slot before further ones are refused.
        queue_sequences: usize = 64, between(0, 65_536);
        /// The share of a step that is open to prefill; by default as the role says.
        prefill_share: Option<f64> = None, optional(between(0.0, 1.0), 0.0);
    }
}

section! {
    /// Section `simulated`: a step takes the sum of its costs; 0 is free.
    SimulatedSettings {
        /// The cost of each token of a prompt.
        prefill_us_per_token: f64 = 0.0, between(0.0, COST_US_MAX);
        /// The cost of a step in which any sequence generates.
        decode_us_per_step: f64 = 0.0, between(0.0, COST_US_MAX);
        /// The cost of each sequence that generates.
        decode_us_per_sequence: f64 = 0.0, between(0.0, COST_US_MAX);
        /// The cost of each token, times the number of tokens before it.
        us_per_token_of_context: f64 = 0.0, between(0.0, COST_US_MAX);
        /// The size of a KV block of 16 tokens.
        block_bytes: usize = 4_096, between(144, 16 << 20);
        /// The seed that the tokens are drawn with.
        seed: u64 = 0, at_least(0);
    }
}

section! {
    /// Section `kvstore`.
    KvstoreSettings {
        /// The size of the store.
        max_bytes: u64 = 2 << 30, at_least(1 << 20);
        /// The time that an unused block stays.
        max_age_s: u64 = 3_600, at_least(1);
        /// The share of the store that one scope may hold.
        quota_share: f64 = 1.0, above_zero_to(1.0);
    }
}

section! {
    /// Section `telemetry`.
    TelemetrySettings {
        /// The OTLP gRPC endpoint for traces. Nothing is exported without one.
        otlp_endpoint: Option<String> = None,
            optional(text("http://host:port or https://host:port", is_http), HTTP.to_owned());
        /// The PEM file of the authority that signed the endpoint's certificate; by default the
        /// system's authorities.
        otlp_certificate: Option<PathBuf> = None, anything("a PEM file");
        /// The PEM file of the certificate by which the endpoint recognizes this client.
        otlp_client_certificate: Option<PathBuf> = None, anything("a PEM file");
        /// The PEM file of that certificate's private key.
        otlp_client_key: Option<PathBuf> = None, anything("a PEM file");
        /// The share of new traces that is recorded.
        sample_ratio: f64 = 1.0, between(0.0, 1.0);
        /// Records requests outside that share, too, when they fail, need another attempt or miss
        /// the limits of `telemetry.slo`.
        keep: bool = true, anything("true or false");
        /// Puts prompts and answers into spans.
        contents: bool = false, anything("true or false");
        /// The log filter, such as `info` or `warn,gateway=debug`.
        log: String = "info".to_owned(), anything("a filter");
        /// Writes log lines as JSON.
        log_json: bool = false, anything("true or false");
        sections {
            /// The limits that a request must meet for its trace not to be kept.
            slo: SloSettings;
        }
    }
}

section! {
    /// Section `telemetry.slo`.
    SloSettings {
        /// The longest time to the first token.
        ttft_ms: Option<f64> = None, optional(above_zero_to(HOUR), HOUR);
        /// The longest time for each token after the first.
        tpot_ms: Option<f64> = None, optional(above_zero_to(HOUR), HOUR);
    }
}

section! {
    /// Section `health`.
    HealthSettings {
        /// The address of `/health`, `/ready` and `/metrics`; port 0 takes a free one.
        listen: String = "127.0.0.1:0".to_owned(), text("host:port", has_port);
    }
}

section! {
    /// Section `links`.
    LinksSettings {
        /// Jaeger's base URL as a browser reaches it; empty shows no link.
        jaeger: String = String::new(), text("http://host:port or empty", is_link);
        /// Grafana's base URL as a browser reaches it; empty shows no link.
        grafana: String = String::new(), text("http://host:port or empty", is_link);
    }
}

impl Settings {
    /// [`drain_timeout_ms`](Self::drain_timeout_ms) as a duration.
    pub fn drain_timeout(&self) -> Duration {
        Duration::from_millis(self.drain_timeout_ms)
    }

    /// Returns every key with its meaning and limits, in the order of the schema.
    pub fn keys(&self) -> Vec<Key> {
        let mut keys = Vec::new();
        self.list("", &mut keys);
        keys
    }
}

/// An endpoint that is valid.
const HTTP: &str = "http://";

fn has_port(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

pub(super) fn is_http(url: &str) -> bool {
    url.starts_with("http://") || url.starts_with("https://")
}

fn is_link(url: &str) -> bool {
    url.is_empty() || is_http(url)
}

fn is_subject_token(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}
