//! Settings: which source wins, what each value remembers, and how mistakes are explained.

#![allow(clippy::unwrap_used, reason = "what helps a test may fail like a test")]

use std::path::{Path, PathBuf};

use chassis::settings::{
    Device, Effective, Flag, Settings, SettingsArgs, SettingsError, Sources, load,
};
use clap::Parser as _;

#[derive(Debug, clap::Parser)]
struct Cli {
    #[command(flatten)]
    settings: SettingsArgs,
}

fn environment(variables: &[(&str, &str)]) -> Sources {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Sources { environment: variables.collect(), ..Sources::default() }
}

fn set(key: &str, value: &str) -> Flag {
    Flag { key: key.to_owned(), value: value.to_owned(), flag: "--set".to_owned() }
}

fn flags(flags: &[(&str, &str)]) -> Sources {
    let flags = flags.iter().map(|(key, value)| set(key, value)).collect();
    Sources { flags, ..Sources::default() }
}

fn file(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("tandem.toml");
    std::fs::write(&path, text).unwrap();
    path
}

fn file_error(text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), text);
    load(&Sources { file: Some(path), ..Sources::default() }).unwrap_err().to_string()
}

fn env_error(name: &str, value: &str) -> String {
    load(&environment(&[(name, value)])).unwrap_err().to_string()
}

fn value<'a>(effective: &'a Effective, key: &str) -> &'a str {
    &effective.entries.iter().find(|entry| entry.key == key).unwrap().value
}

#[test]
fn without_sources_the_defaults_are_in_force() {
    let effective = load(&Sources::default()).unwrap();
    assert_eq!(effective.settings, Settings::default());
    assert!(effective.entries.iter().all(|entry| entry.origin == "default"));
    assert_eq!(value(&effective, "gateway.listen"), "127.0.0.1:8080");
    assert_eq!(value(&effective, "model.path"), "");
}

#[test]
fn flags_win_over_environment_over_file_over_defaults() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(
        folder.path(),
        "threads = 1\n[worker]\nkv_pages = 10\nstep_tokens = 20\nmax_sequences = 30\n",
    );
    let mut sources = environment(&[
        ("TANDEM_WORKER__STEP_TOKENS", "21"),
        ("TANDEM_WORKER__MAX_SEQUENCES", "31"),
        ("UNRELATED", "x"),
    ]);
    sources.file = Some(path.clone());
    sources.flags = vec![set("worker.max_sequences", "32"), set("worker.max_sequences", "33")];
    let effective = load(&sources).unwrap();

    let worker = &effective.settings.worker;
    assert_eq!((worker.kv_pages, worker.step_tokens, worker.max_sequences), (10, 21, 33));
    assert_eq!(effective.settings.threads, 1);
    assert_eq!(worker.queue_sequences, Settings::default().worker.queue_sequences);
    let origin = |key| effective.origin(key).unwrap();
    assert_eq!(origin("worker.kv_pages"), format!("file {}", path.display()));
    assert_eq!(origin("worker.step_tokens"), "env TANDEM_WORKER__STEP_TOKENS");
    assert_eq!(origin("worker.max_sequences"), "flag --set");
    assert_eq!(origin("worker.queue_sequences"), "default");
}

#[test]
fn the_table_shows_key_value_and_origin_and_hides_passwords() {
    let table = load(&environment(&[
        ("TANDEM_NATS__URL", "nats://tandem:s3cret@one:4222,nats://t0ken@two:4222"),
        ("TANDEM_WORKER__PREFILL_SHARE", "0.25"),
    ]))
    .unwrap()
    .to_string();
    assert!(!table.contains("s3cret") && !table.contains("t0ken"), "{table}");
    let row = |key: &str| {
        let line = table.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(row("worker.prefill_share")[1..], ["0.25", "env", "TANDEM_WORKER__PREFILL_SHARE"]);
    assert_eq!(row("nats.url")[1], "nats://tandem:***@one:4222,nats://***:***@two:4222");
    assert_eq!(row("device")[1..], ["auto", "default"]);
}

#[test]
fn the_standard_otlp_variable_counts_but_ours_is_stronger() {
    let standard = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://standard:4317");
    let effective = load(&environment(&[standard])).unwrap();
    let endpoint = |e: &Effective| e.settings.telemetry.otlp_endpoint.clone().unwrap();
    assert_eq!(endpoint(&effective), "http://standard:4317");
    assert_eq!(
        effective.origin("telemetry.otlp_endpoint"),
        Some("env OTEL_EXPORTER_OTLP_ENDPOINT")
    );
    let ours = ("TANDEM_TELEMETRY__OTLP_ENDPOINT", "http://ours:4317");
    assert_eq!(endpoint(&load(&environment(&[standard, ours])).unwrap()), "http://ours:4317");
}

#[test]
fn empty_variables_and_those_that_are_no_settings_are_passed_over() {
    let effective = load(&environment(&[
        ("TANDEM_DEVICE", ""),
        ("TANDEM_CONFIG", "x.toml"),
        ("TANDEM_CACHE", "/tmp/x"),
        ("TANDEM_REQUIRE", "all"),
        ("TANDEM_TESTS", "exhaustive"),
        ("TANDEM_TRACES", "/tmp/traces"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", ""),
    ]))
    .unwrap();
    assert_eq!(effective.settings, Settings::default());
}

#[test]
fn what_the_gate_exports_stops_no_service() {
    let gate = include_str!("../../../.ci/run");
    let exported: Vec<_> = gate
        .lines()
        .filter_map(|line| line.strip_prefix("export ")?.split_once('='))
        .filter(|(name, _)| name.starts_with("TANDEM_"))
        .collect();
    assert!(exported.len() >= 3, "{exported:?}");
    assert_eq!(load(&environment(&exported)).unwrap().settings, Settings::default());
}

#[test]
fn a_misspelt_key_is_refused_with_the_nearest_one() {
    let text = file_error("[gateway]\nlissten = \"127.0.0.1:1\"\n");
    assert!(text.contains("unknown setting gateway.lissten (file "), "{text}");
    assert!(text.ends_with("did you mean gateway.listen?"), "{text}");

    let text = file_error("[gatway]\nmax_inflight = 3\n");
    assert!(text.ends_with("did you mean gateway.max_inflight?"), "{text}");

    let text = file_error("kv_pages = 3\n");
    assert!(text.ends_with("did you mean worker.kv_pages?"), "{text}");

    let text = env_error("TANDEM_GATEWAY_LISTEN", "127.0.0.1:1");
    assert!(text.contains("(env TANDEM_GATEWAY_LISTEN)"), "{text}");
    assert!(text.ends_with("did you mean TANDEM_GATEWAY__LISTEN?"), "{text}");

    let text = load(&flags(&[("worker.kvpages", "3")])).unwrap_err().to_string();
    assert_eq!(text, "unknown setting worker.kvpages (flag --set); did you mean worker.kv_pages?");
}

#[test]
fn a_key_that_resembles_nothing_gets_no_suggestion() {
    let text = env_error("TANDEM_ZZZZZZZZ", "1");
    assert_eq!(text, "unknown setting zzzzzzzz (env TANDEM_ZZZZZZZZ)");
}

#[test]
fn a_value_of_the_wrong_type_names_key_value_source_and_expectation() {
    let text = env_error("TANDEM_GATEWAY__MAX_INFLIGHT", "many");
    assert_eq!(
        text,
        "setting gateway.max_inflight = many (env TANDEM_GATEWAY__MAX_INFLIGHT): \
         expected a whole number, 0 or more"
    );
    for (name, value) in [
        ("TANDEM_THREADS", "-1"),
        ("TANDEM_THREADS", "1.5"),
        ("TANDEM_THREADS", "yes"),
        ("TANDEM_WORKER__PREFILL_SHARE", "half"),
        ("TANDEM_TELEMETRY__SAMPLE_RATIO", "NaN"),
        ("TANDEM_TELEMETRY__LOG_JSON", "1"),
    ] {
        let error = load(&environment(&[(name, value)])).unwrap_err();
        assert!(matches!(error, SettingsError::Value { .. }), "{name}={value}: {error}");
    }
    for text in [
        "gateway = 5",
        "threads = \"many\"",
        "threads = -1",
        "threads = 1.5",
        "device = 5",
        "[nats.url]\nhost = \"x\"",
        "[model]\npath = [\"a\"]",
    ] {
        let error = file_error(text);
        assert!(error.contains("expected") || error.contains("did you mean"), "{text}: {error}");
    }
}

#[test]
fn values_out_of_range_are_refused_with_their_origin() {
    for (key, value) in [
        ("device", "gpu"),
        ("device", "wgpu:x"),
        ("isa", "sse9"),
        ("activations", "int4"),
        ("threads", "5000"),
        ("drain_timeout_ms", "3600001"),
        ("nats.url", ""),
        ("nats.url", "http://x"),
        ("nats.connect_timeout_ms", "0"),
        ("gateway.listen", "8080"),
        ("gateway.listen", "host:99999"),
        ("gateway.request_timeout_ms", "0"),
        ("gateway.max_inflight", "0"),
        ("gateway.max_body_bytes", "1"),
        ("gateway.max_choices", "0"),
        ("gateway.disaggregate", "sometimes"),
        ("worker.id", "a.b"),
        ("worker.kv_pages", "1"),
        ("worker.step_tokens", "0"),
        ("worker.max_sequences", "0"),
        ("worker.queue_sequences", "70000"),
        ("worker.prefill_share", "1.5"),
        ("kvstore.max_bytes", "1"),
        ("kvstore.max_age_s", "0"),
        ("kvstore.quota_share", "0"),
        ("telemetry.otlp_endpoint", "host:4317"),
        ("telemetry.sample_ratio", "-0.1"),
        ("health.listen", "nowhere"),
    ] {
        let error = load(&flags(&[(key, value)])).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, SettingsError::Value { .. }), "{key}={value}: {text}");
        assert!(text.starts_with(&format!("setting {key} = {value} (flag --set)")), "{text}");
    }
}

#[test]
fn numbers_of_a_file_may_be_written_without_a_fraction() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), "[worker]\nprefill_share = 1\nid = \"w-1\"\n");
    let effective = load(&Sources { file: Some(path), ..Sources::default() }).unwrap();
    assert_eq!(effective.settings.worker.prefill_share, Some(1.0));
    assert_eq!(effective.settings.worker.id, "w-1");
}

#[test]
fn a_missing_or_broken_file_is_named() {
    let missing = Sources { file: Some("no/such.toml".into()), ..Sources::default() };
    let error = load(&missing).unwrap_err();
    assert!(matches!(error, SettingsError::Unreadable { .. }), "{error}");
    let optional = Sources { default_file: Some("no/such.toml".into()), ..Sources::default() };
    assert_eq!(load(&optional).unwrap().settings, Settings::default());

    let text = file_error("threads = \n");
    assert!(text.contains("tandem.toml") && text.contains("line 1"), "{text}");
}

#[test]
fn named_flags_map_to_keys_and_win_over_set() {
    let cli = Cli::parse_from([
        "x",
        "--set",
        "device=wgpu",
        "--set",
        "worker.id=w=1",
        "--device",
        "cpu",
        "--threads",
        "2",
        "--nats",
        "nats://n:1",
        "--model",
        "/m.gguf",
        "--listen",
        "0.0.0.0:80",
    ]);
    let flags = cli.settings.flags().unwrap();
    let sources = Sources {
        flags: flags.into_iter().filter(|flag| flag.key != "worker.id").collect(),
        ..Sources::default()
    };
    let effective = load(&sources).unwrap();
    let settings = &effective.settings;
    assert_eq!((settings.device, settings.threads), (Device::Cpu, 2));
    assert_eq!(settings.nats.url.expose(), "nats://n:1");
    assert_eq!(settings.model.path.as_deref(), Some(Path::new("/m.gguf")));
    assert_eq!(settings.gateway.listen, "0.0.0.0:80");
    assert_eq!(effective.origin("device"), Some("flag --device"));

    let cli = Cli::parse_from(["x", "--set", "device"]);
    let error = cli.settings.flags().unwrap_err();
    assert_eq!(error.to_string(), "--set device: expected KEY=VALUE");
}

#[test]
fn links_are_web_addresses_or_nothing() {
    let effective = load(&environment(&[("TANDEM_LINKS__JAEGER", "http://127.0.0.1:16686")]));
    assert_eq!(effective.unwrap().settings.links.jaeger, "http://127.0.0.1:16686");
    assert_eq!(load(&flags(&[("links.grafana", "")])).unwrap().settings.links.grafana, "");
    let error = load(&flags(&[("links.grafana", "javascript:alert(1)")])).unwrap_err().to_string();
    assert!(error.contains("links.grafana") && error.contains("http://host:port"), "{error}");
}

#[test]
fn kubernetes_service_variables_are_no_settings() {
    // The variables that the kubelet sets in each pod for Services named `tandem` and `tandem-gateway`.
    let variables = [
        ("TANDEM_PORT", "tcp://10.0.0.1:8080"),
        ("TANDEM_SERVICE_HOST", "10.0.0.1"),
        ("TANDEM_SERVICE_PORT", "8080"),
        ("TANDEM_SERVICE_PORT_HTTP", "8080"),
        ("TANDEM_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("TANDEM_PORT_8080_TCP_PROTO", "tcp"),
        ("TANDEM_PORT_8080_TCP_PORT", "8080"),
        ("TANDEM_PORT_8080_TCP_ADDR", "fd00::1"),
        ("TANDEM_GATEWAY_PORT", "tcp://10.0.0.2:80"),
        ("TANDEM_GATEWAY_SERVICE_HOST", "10.0.0.2"),
    ];
    let effective = load(&environment(&variables)).unwrap();
    assert_eq!(effective.settings, Settings::default());
    assert_eq!(effective.notices.kubernetes.len(), variables.len());
    assert!(effective.notices.warnings.is_empty());
    // Names alone do not make a service variable.
    for (name, value) in [
        ("TANDEM_PORT", "8080"),
        ("TANDEM_SERVICE_HOST", "gateway"),
        ("TANDEM_SERVICE_PORT", "http"),
        ("TANDEM_PORT_8080_TCP_ADDRESS", "10.0.0.1"),
        ("TANDEM_PORT_HTTP_TCP", "tcp://10.0.0.1:8080"),
    ] {
        assert!(env_error(name, value).contains(&format!("(env {name})")), "{name}");
    }
}

#[test]
fn opentelemetry_variables_that_cannot_be_used_cost_the_traces_only() {
    let endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let warnings = |variables: &[(&str, &str)]| {
        let effective = load(&environment(variables)).unwrap();
        (effective.settings.telemetry.otlp_endpoint, effective.notices.warnings)
    };
    let (used, said) = warnings(&[(endpoint, "localhost:4317")]);
    assert_eq!(used, None);
    assert_eq!(said.len(), 1);
    for part in [endpoint, "localhost:4317", "http://host:port", "no traces"] {
        assert!(said[0].contains(part), "{part}: {said:?}");
    }

    let http = [(endpoint, "http://c:4318"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")];
    let (used, said) = warnings(&http);
    assert_eq!(used, None);
    for part in ["OTEL_EXPORTER_OTLP_PROTOCOL = http/protobuf", "expected grpc", "4317"] {
        assert!(said[0].contains(part), "{part}: {said:?}");
    }

    let grpc = [(endpoint, "https://c:4317"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")];
    assert_eq!(warnings(&grpc), (Some("https://c:4317".to_owned()), Vec::new()));

    // Ours is meant for us, so what others cannot use does not matter.
    let ours = [(endpoint, "c:4317"), ("TANDEM_TELEMETRY__OTLP_ENDPOINT", "http://ours:4317")];
    assert_eq!(warnings(&ours), (Some("http://ours:4317".to_owned()), Vec::new()));
}

#[test]
fn certificates_for_the_collector_come_from_the_standard_variables() {
    let settings = load(&environment(&[
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/general.pem"),
        ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "/traces.pem"),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/client.pem"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/client.key"),
    ]));
    let telemetry = settings.unwrap().settings.telemetry;
    assert_eq!(telemetry.otlp_certificate, Some("/traces.pem".into()));
    assert_eq!(telemetry.otlp_client_certificate, Some("/client.pem".into()));
    assert_eq!(telemetry.otlp_client_key, Some("/client.key".into()));
}

#[test]
fn every_key_is_described_once() {
    let keys = Settings::default().keys();
    let effective = load(&Sources::default()).unwrap();
    let mut described: Vec<&str> = keys.iter().map(|key| key.key.as_str()).collect();
    described.sort_unstable();
    let listed: Vec<&str> = effective.entries.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(described, listed);
    for key in &keys {
        assert!(key.meaning.ends_with('.') && !key.expected.is_empty(), "{key:?}");
    }
    let find = |name: &str| keys.iter().find(|key| key.key == name).unwrap();
    assert_eq!(find("isa").expected, "auto, avx512, avx2 or portable");
    assert_eq!(find("gateway.request_timeout_ms").unit(), "milliseconds");
    assert_eq!(find("simulated.us_per_token_of_context").unit(), "microseconds");
    assert_eq!(find("gateway.max_choices").expected, "1 to 1024");
}
