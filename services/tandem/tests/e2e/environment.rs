//! Environments that machines really have: proxies, Kubernetes, collectors set for other programs.

use std::io::Read as _;
use std::process::{Command, Output, Stdio};

use testbed::wait_for;

use crate::harness::{Lines, System, free_port, tandem, turn};
use crate::processes::service_below;

/// Nothing listens there: whoever goes through it fails.
const DEAD_PROXY: &str = "http://127.0.0.1:9";

const ENVIRONMENT: [(&str, &str); 11] = [
    ("http_proxy", DEAD_PROXY),
    ("HTTP_PROXY", DEAD_PROXY),
    ("https_proxy", DEAD_PROXY),
    ("all_proxy", DEAD_PROXY),
    ("no_proxy", ""),
    ("NO_PROXY", ""),
    ("TANDEM_PORT", "tcp://10.0.0.1:8080"),
    ("TANDEM_SERVICE_HOST", "10.0.0.1"),
    ("TANDEM_SERVICE_PORT", "8080"),
    ("TANDEM_PORT_8080_TCP_ADDR", "10.0.0.1"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4317"),
];

fn said(output: &Output) -> String {
    let (stdout, stderr) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(stdout), String::from_utf8_lossy(stderr))
}

fn run(arguments: &[&str]) -> Output {
    tandem().args(arguments).envs(ENVIRONMENT).output().expect("it runs")
}

#[testbed::test]
fn it_starts_and_answers_whatever_the_environment_says() {
    let _turn = turn();
    let system = System::simulated_in(&[], &ENVIRONMENT);
    let warned = "OTEL_EXPORTER_OTLP_ENDPOINT = localhost:4317";
    assert!(system.logged.text().contains(warned), "{}", system.everything());

    let ready = format!("{}/ready", system.base);
    let health = run(&["healthcheck", "--url", &ready]);
    assert!(health.status.success(), "{}", said(&health));
    // As it is typed: without a scheme, and with the path that other clients want.
    let address = system.base.trim_start_matches("http://");
    for url in [address.to_owned(), format!("{}/v1", system.base), format!("{address}/v1/")] {
        let chat = run(&["chat", "--url", &url, "--max-tokens", "4", "hi"]);
        assert!(chat.status.success(), "{url}: {}", said(&chat));
    }

    // Neither needs a URL: this system is the one that was started last.
    let chat = run(&["chat", "--max-tokens", "4", "hi"]);
    assert!(chat.status.success(), "{}", said(&chat));
    let status = run(&["status"]);
    let text = said(&status);
    assert!(status.status.success() && text.contains(&system.base), "{text}");
    assert!(text.contains("is ready") && text.contains("prefill-1"), "{text}");
    assert!(system.stop().success());
}

#[testbed::test]
fn a_collector_that_speaks_http_costs_the_traces_only() {
    let output = tandem()
        .arg("config")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        .output()
        .expect("it runs");
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("OTEL_EXPORTER_OTLP_PROTOCOL = http/protobuf: expected grpc"), "{text}");
}

/// Runs `tandem up` until it ends by itself.
fn failed_up(arguments: &[&str]) -> String {
    let listen = format!("127.0.0.1:{}", free_port());
    let output = tandem()
        .args(["up", "--listen", &listen])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    assert!(!output.status.success(), "{}", said(&output));
    said(&output)
}

#[testbed::test]
fn what_is_no_model_is_found_before_anything_is_started() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("bad.gguf");
    std::fs::write(&file, "<html>not found</html>").expect("it is written");
    let text = failed_up(&["--model", &file.to_string_lossy()]);
    assert!(text.contains("bad.gguf") && text.contains("neither a GGUF file nor"), "{text}");
    assert!(!text.contains("nats"), "{text}");

    let empty = tempfile::tempdir().expect("a directory");
    let path = empty.path().to_string_lossy().into_owned();
    let text = failed_up(&["--model", &path]);
    assert!(text.contains(&path) && text.contains("*.safetensors"), "{text}");
    assert!(!text.contains("nats"), "{text}");
}

#[testbed::test]
fn a_cause_is_named_once() {
    let output = tandem()
        .args(["fetch-model", "--model", "hf:acme/nothing"])
        .env("HF_ENDPOINT", "http://127.0.0.1:1")
        .env("HF_HOME", env!("CARGO_TARGET_TMPDIR"))
        .output()
        .expect("it runs");
    let text = said(&output);
    assert!(!output.status.success(), "{text}");
    assert_eq!(text.matches("Connection refused").count(), 1, "{text}");
}

#[testbed::test]
fn a_cache_that_cannot_be_made_is_named() {
    // Not even root can make a folder there.
    let output = tandem()
        .args(["up", "--engine", "simulated"])
        .env("TANDEM_CACHE", "/proc/tandem")
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    assert!(!output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("/proc/tandem"), "{}", said(&output));
}

#[testbed::test]
fn an_unreachable_nats_is_named_by_up_itself() {
    let listen = format!("127.0.0.1:{}", free_port());
    let mut command: Command = tandem();
    command
        .args(["up", "--tethered", "--engine", "simulated", "--listen", &listen])
        .args(["--nats", "nats://user:secret@127.0.0.1:1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut up = command.spawn().expect("it starts");
    let lines = Lines::collect(up.stdout.take().expect("stdout is piped"));
    let mut log = up.stderr.take().expect("stderr is piped");
    let drain = std::thread::spawn(move || log.read_to_end(&mut Vec::new()));
    let wanted = "waiting   for nats at nats://user:***@127.0.0.1:1: ";
    let limit = std::time::Duration::from_secs(60);
    wait_for(limit, || lines.find(|line| line.contains(wanted).then_some(())).ok_or(lines.text()));
    assert!(!lines.text().contains("secret"), "{}", lines.text());
    drop(up.stdin.take());
    assert!(up.wait().is_ok());
    drop(drain.join());
}

#[testbed::test]
fn no_command_line_of_a_service_holds_the_password_of_nats() {
    let listen = format!("127.0.0.1:{}", free_port());
    let mut up = tandem()
        .args(["up", "--tethered", "--engine", "simulated", "--listen", &listen])
        .args(["--nats", "nats://user:secret@127.0.0.1:1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let services = wait_for(std::time::Duration::from_secs(60), || {
        ["kvstore", "prefill", "decode", "gateway"]
            .iter()
            .map(|kind| service_below(up.id(), kind).ok_or(format!("no {kind} runs")))
            .collect::<Result<Vec<_>, String>>()
    });
    for service in services {
        let line = service.command_line();
        assert!(!line.is_empty() && !line.iter().any(|word| word.contains("secret")), "{line:?}");
    }
    drop(up.stdin.take());
    assert!(up.wait().is_ok());
}
