//! Runs against the null server, whose times are known, and against servers that close connections.

#![allow(clippy::unwrap_used, reason = "what helps a test may fail like a test")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command as Process, Stdio};
use std::time::Duration;

use clap::Parser;
use loadgen::calibrate::null::{NullOptions, NullServer};
use loadgen::cli::{Cli, Command};
use loadgen::cli::{Ending, run::execute as run};
use serde_json::Value;
use testbed::OtlpReceiver;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Checks that every request of the plan has exactly one ending.
fn adds_up(report: &Value) {
    let count = |name: &str| report["counts"][name].as_u64().unwrap();
    let ends = ["offered", "cancelled", "unsent", "beyond_end", "unneeded"];
    assert_eq!(ends.map(count).iter().sum::<u64>(), count("planned"), "{}", report["counts"]);
}

/// Results of a run.
struct Done {
    report: Value,
    requests: Vec<Value>,
    ending: Ending,
}

/// Runs `loadgen run` with these arguments, without a limit on the lag of a busy test machine, and
/// without scrapes, since some of the servers here count their connections. `quoted` has an argument of several words.
async fn load(url: &str, arguments: &str, quoted: &[&str]) -> Done {
    let folder = tempfile::tempdir().unwrap();
    let (json, jsonl) = (folder.path().join("report.json"), folder.path().join("lines.jsonl"));
    let fixed = format!(
        "loadgen run --progress none --lag-limit 60s --server-metrics none --url {url} --json {} \
         --jsonl {}",
        json.display(),
        jsonl.display()
    );
    let words = fixed.split(' ').chain(arguments.split_whitespace()).chain(quoted.iter().copied());
    let Command::Run(args) = Cli::try_parse_from(words).unwrap().command else { panic!("no run") };
    let (_stop, stopped) = mpsc::channel(1);
    let (_, ending) = run(&args, stopped).await.unwrap();
    let lines = std::fs::read_to_string(jsonl).unwrap();
    Done {
        report: serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap(),
        requests: lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
        ending,
    }
}

async fn null(ttft_ms: u64, itl_ms: u64, slots: Option<usize>) -> NullServer {
    let options = NullOptions {
        ttft: Duration::from_millis(ttft_ms),
        itl: Duration::from_millis(itl_ms),
        slots,
        ..NullOptions::default()
    };
    NullServer::start("127.0.0.1:0", options).await.unwrap()
}

fn ns(request: &Value, name: &str) -> i64 {
    request[name].as_i64().unwrap_or_else(|| panic!("{name} in {request}"))
}

fn ms(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

#[tokio::test]
async fn the_times_of_the_null_server_are_measured() {
    let server = null(40, 15, None).await;
    let arguments = "--rate 40 --arrivals constant --requests 12 --output-tokens 6";
    for endpoint in ["completions", "chat"] {
        let done = load(&server.url(), &format!("{arguments} --endpoint {endpoint}"), &[]).await;
        assert_eq!(done.report["counts"]["completed"], 12, "{}", done.report);
        assert_eq!(done.report["counts"]["wrong_length"], 0);
        for request in &done.requests {
            let order = ["dispatched_ns", "written_ns", "first_byte_ns", "first_token_ns"];
            let stamps = order.map(|name| ns(request, name));
            assert!(stamps.is_sorted(), "{request}");
            // Server and client measure the same request, and the client's time is the longer one.
            let served = ms(&request["server_ttft_ms"]);
            assert!(served >= 40.0, "{request}");
            assert!((stamps[3] - stamps[0]) as f64 / 1e6 >= served, "{request}");
            let tokens: Vec<i64> = request["token_ns"]
                .as_array()
                .unwrap()
                .iter()
                .map(|t| t.as_i64().unwrap())
                .collect();
            assert_eq!(tokens.len(), 6);
            // The last token is due at least 40 ms and five gaps of 15 ms after the send.
            assert!(tokens[5] - stamps[0] >= 115_000_000, "{request}");
            let stages = request["stages"].as_array().unwrap();
            let names: Vec<&str> = stages.iter().map(|s| s["name"].as_str().unwrap()).collect();
            assert_eq!(names, ["prefill.queue", "prefill.compute", "decode.generate"]);
            assert!(ms(&stages[1]["duration_ms"]) >= 40.0);
        }
    }
}

#[tokio::test]
async fn a_server_with_few_slots_says_how_long_a_request_waited() {
    let server = null(50, 1, Some(1)).await;
    let arguments = "--rate 1000 --arrivals constant --requests 5 --output-tokens 1";
    let done = load(&server.url(), arguments, &[]).await;
    // One after the other, 50 ms each, however late they were sent.
    let first = done.requests.iter().map(|r| ns(r, "dispatched_ns")).min().unwrap();
    let last = done.requests.iter().map(|r| ns(r, "first_token_ns")).max().unwrap();
    assert!(last - first >= 5 * 50_000_000, "{first} {last}");
    let waits = done.requests.iter().map(|r| ms(&r["stages"][0]["duration_ms"]));
    assert!(waits.fold(0.0, f64::max) > 0.0);
}

#[tokio::test]
async fn a_cool_down_keeps_the_load_up_until_the_last_measured_request_is_over() {
    let server = null(20, 4, None).await;
    let arguments =
        "--rate 100 --arrivals constant --requests 10 --output-tokens 1..100 --cooldown 20s";
    let done = load(&server.url(), arguments, &[]).await;
    assert_eq!(done.ending, Ending::Good, "{}", done.report["verdict"]);
    assert_eq!(done.report["latency"]["ttft_response_ms"]["count"], 10);
    assert_eq!(done.report["counts"]["cancelled"], 0);
    // Later short requests ended before the last of the ten; 20 s would be 2,000 requests.
    let over = done.requests.len();
    assert!((11..500).contains(&over), "{over}");
    adds_up(&done.report);
    assert!(done.report["counts"]["unneeded"].as_u64().unwrap() > 1000);
    let hit = load(&server.url(), &arguments.replace("20s", "50ms"), &[]).await;
    adds_up(&hit.report);
    assert_eq!(hit.ending, Ending::Invalid, "{}", hit.report["verdict"]);
}

#[tokio::test]
async fn a_user_sends_the_next_request_after_the_answer_and_a_thought() {
    let server = null(20, 1, None).await;
    let arguments = "--users 3 --requests 12 --think-time 30ms --think constant --output-tokens 2";
    let done = load(&server.url(), arguments, &[]).await;
    assert_eq!(done.report["counts"]["completed"], 12, "{}", done.report);
    let mut spans: Vec<(i64, i64)> =
        done.requests.iter().map(|r| (ns(r, "intended_ns"), ns(r, "finished_ns"))).collect();
    spans.sort_unstable();
    for (at, (intended, _)) in spans.iter().enumerate() {
        let in_flight = spans.iter().filter(|(from, to)| from < intended && intended < to).count();
        assert!(in_flight < 3, "{spans:?}");
        // All but the first of each user were due exactly 30 ms after a response.
        let follows = spans.iter().any(|(_, finished)| finished + 30_000_000 == *intended);
        assert!(at < 3 || follows, "{spans:?}");
    }
    let ended = load(&server.url(), &format!("{arguments} --duration 100ms"), &[]).await;
    adds_up(&ended.report);
    assert!(ended.report["counts"]["beyond_end"].as_u64().unwrap() > 0, "{}", ended.report);
    assert_eq!(ended.ending, Ending::Good, "{}", ended.report["verdict"]);
}

#[tokio::test]
async fn what_else_happens_is_noted_with_its_time_and_its_end() {
    let server = null(1, 1, None).await;
    let arguments = "--rate 20 --arrivals constant --requests 10 --output-tokens 2";
    let quoted =
        ["--at", "100ms", "echo gone; exit 3", "--mark", "50ms", "half", "--at", "1h", "never"];
    let done = load(&server.url(), arguments, &quoted).await;
    let text = done.report["marks"].to_string();
    for part in ["half", "echo gone; exit 3", "exit 3"] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    assert_eq!(done.report["counts"]["completed"], 10);
}

#[tokio::test]
async fn a_span_of_each_request_is_exported_where_asked_for() {
    let collector = OtlpReceiver::start().await;
    let server = null(5, 1, None).await;
    let arguments = format!(
        "--rate 100 --requests 4 --output-tokens 2 --otlp-endpoint {} --trace-ratio 1",
        collector.url()
    );
    let done = load(&server.url(), &arguments, &[]).await;
    let spans =
        collector.wait_for(Duration::from_secs(20), |spans| spans.len() == 4).await.unwrap();
    let run_id = done.report["workload"]["run_id"].as_str().unwrap();
    for request in &done.requests {
        let span = spans.iter().find(|span| request["trace_id"] == span.trace_id.as_str()).unwrap();
        assert_eq!(
            (span.name.as_str(), span.service.as_str()),
            ("POST /v1/completions", "loadgen")
        );
        assert_eq!(span.parent_span_id, None);
        assert_eq!(span.attributes["loadgen.run_id"], run_id);
        let ttft: f64 = span.attributes["loadgen.ttft_ms"].parse().unwrap();
        assert!(ttft >= 5.0, "{span:?}");
        assert!(span.attributes.contains_key("loadgen.lag_ms"));
    }
}

#[tokio::test]
async fn a_stream_that_stalls_ends_at_the_time_out_with_what_it_brought() {
    let server = null(10, 60_000, None).await;
    let arguments = "--rate 50 --requests 3 --output-tokens 5 --timeout 1500ms";
    let done = load(&server.url(), arguments, &[]).await;
    assert_eq!(done.ending, Ending::NothingCompleted);
    for request in &done.requests {
        assert_eq!(request["error_class"], "timeout");
        assert_eq!(request["token_ns"].as_array().unwrap().len(), 1);
        // The timeout counts from the intended time.
        let lasted = ns(request, "finished_ns") - ns(request, "intended_ns");
        assert!(lasted >= 1_500_000_000, "{request}");
    }
}

#[tokio::test]
async fn a_connection_that_breaks_is_another_failure_than_a_stream_that_ends_early() {
    let (url, _server) = hangs_up(3, true).await;
    let done = load(&url, "--rate 10 --requests 2 --output-tokens 1", &[]).await;
    assert_eq!(done.ending, Ending::NothingCompleted);
    for request in &done.requests {
        assert_eq!(request["error_class"], "broken connection", "{request}");
        assert_eq!(request["token_ns"].as_array().unwrap().len(), 1);
        assert!(request["trace_id"].is_string() && request["first_byte_ns"].is_i64());
    }
}

/// Serves one request per connection, then closes it without notice. If `short`, the response to it
/// is one byte shorter than announced.
async fn hangs_up(answers: usize, short: bool) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut server = JoinSet::new();
    server.spawn(async move {
        for _ in 0..answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut seen = Vec::new();
            let body = br#""ignore_eos":true}"#;
            while !seen.ends_with(body) && !seen.ends_with(b"\r\n\r\n") {
                assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0);
            }
            let (kind, text) = if seen.starts_with(b"GET") {
                ("application/json", r#"{"data":[{"id":"m","max_model_len":4096}]}"#.to_owned())
            } else {
                let choice = r#"{"choices":[{"text":"a","finish_reason":"length"}]}"#;
                ("text/event-stream", format!("data: {choice}\n\ndata: [DONE]\n\n"))
            };
            let head = "HTTP/1.1 200 OK\r\n";
            let answer = format!(
                "{head}content-type: {kind}\r\ncontent-length: {}\r\n\r\n{text}",
                text.len() + usize::from(short && kind != "application/json")
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (url, server)
}

#[tokio::test]
async fn a_kept_connection_that_the_server_closed_is_replaced() {
    let (url, _server) = hangs_up(4, false).await;
    let arguments = "--rate 10 --arrivals constant --requests 3 --output-tokens 1";
    let done = load(&url, arguments, &[]).await;
    assert_eq!(done.report["counts"]["completed"], 3, "{}", done.report["errors"]);
}

/// Starts the program; returns it and the address in its first line of output.
fn start(arguments: &[&str]) -> (Child, String) {
    let mut child = Process::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let url = line.trim().strip_prefix("listening at ").unwrap().to_owned();
    (child, url)
}

#[test]
fn the_exit_status_tells_how_it_ended() {
    let serve = ["null-server", "--tethered", "--listen", "127.0.0.1:0", "--ttft", "1s"];
    let (mut server, url) = start(&serve);
    let run = |words: &str| {
        let mut process = Process::new(env!("CARGO_BIN_EXE_loadgen"));
        process.args(["run", "--url", &url]).args(words.split(' '));
        process.stdout(Stdio::piped()).stderr(Stdio::null());
        process
    };
    let load = "--rate 20 --output-tokens 1 --lag-limit 60s";
    let good = run(&format!("{load} --requests 2")).output().unwrap();
    assert_eq!(good.status.code(), Some(0), "{}", String::from_utf8_lossy(&good.stdout));
    let dropped = format!("{load} --requests 10 --max-inflight 1 --on-full abort --grace 0s");
    let invalid = run(&dropped).output().unwrap();
    assert!(matches!(invalid.status.code(), Some(3 | 130)), "{:?}", invalid.status);
    let late = run(&format!("{load} --requests 2 --timeout 100ms")).output().unwrap();
    assert_eq!(late.status.code(), Some(4));
    let wrong = run("--rate fast").output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
    let mut cut = run(&format!("{load} --requests 100000 --grace 100ms --progress json"));
    let mut cut = cut.stderr(Stdio::piped()).spawn().unwrap();
    // Once the program prints its progress, it listens for signals.
    let mut line = String::new();
    BufReader::new(cut.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with('{'), "{line}");
    let id = cut.id().to_string();
    assert!(Process::new("kill").args(["-INT", &id]).status().unwrap().success());
    let mut report = String::new();
    std::io::Read::read_to_string(cut.stdout.as_mut().unwrap(), &mut report).unwrap();
    assert_eq!(cut.wait().unwrap().code(), Some(130));
    assert!(report.contains("Ctrl-C"), "{report}");
    // The end of standard input ends a tethered server.
    drop(server.stdin.take());
    assert!(server.wait().unwrap().success());
}

#[test]
fn calibrate_measures_its_own_server_and_the_bare_loop() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("calibration.json");
    let words = "calibrate --streams 20 --itl 20ms --tokens 6 --hold 1s --json";
    let done = Process::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(words.split(' '))
        .arg(&json)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&done.stdout);
    // The validity of the step depends on the machine; its content does not.
    assert!(matches!(done.status.code(), Some(0 | 3)), "{text}");
    let all: Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    let step = &all["steps"][0];
    assert_eq!((&step["streams"], &step["failed"]), (&20.into(), &0.into()), "{all}");
    assert!(ms(&step["itl_ms"]["p50"]) > 1.0, "{all}");
    let trusted = step["faults"].as_array().unwrap().is_empty();
    assert!(ms(&all["raw"]["messages_per_s"]) > 100.0, "{all}");
    assert_eq!(done.status.code() == Some(0), trusted);
    assert!(text.contains(all["verdict"].as_str().unwrap()));
}
