//! Whole runs against a scripted server.

#![allow(clippy::unwrap_used, reason = "what helps a test may fail like a test")]

#[path = "../mock/mod.rs"]
mod mock;
mod servers;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use loadgen::cli::{Cli, Command};
use loadgen::cli::{Ending, run::execute as run};
use mock::{Act, Mock};
use serde_json::Value;
use tokio::sync::{Barrier, mpsc};

testbed::suite!();

const AT_ONCE: Act = Act::Stream { first: Duration::ZERO, gap: Duration::ZERO };

/// Results of a run.
struct Done {
    report: Value,
    requests: Vec<Value>,
    ending: Ending,
    text: String,
}

async fn load(mock: &Mock, arguments: &str) -> anyhow::Result<Done> {
    let (_stop, stopped) = mpsc::channel(1);
    load_until(mock, arguments, stopped).await
}

/// Runs `loadgen run` with these arguments, without a limit on the lag of a busy test machine.
async fn load_until(
    mock: &Mock,
    arguments: &str,
    stop: mpsc::Receiver<String>,
) -> anyhow::Result<Done> {
    let folder = tempfile::tempdir()?;
    let (json, jsonl) = (folder.path().join("report.json"), folder.path().join("lines.jsonl"));
    let fixed = format!(
        "loadgen run --progress none --lag-limit 60s --url {} --json {} --jsonl {}",
        mock.url,
        json.display(),
        jsonl.display()
    );
    let words = fixed.split(' ').chain(arguments.split_whitespace());
    let Command::Run(args) = Cli::try_parse_from(words)?.command else { panic!("not a run") };
    let (text, ending) = run(&args, stop).await?;
    let lines = std::fs::read_to_string(jsonl)?;
    Ok(Done {
        report: serde_json::from_str(&std::fs::read_to_string(json)?)?,
        requests: lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect(),
        ending,
        text,
    })
}

fn errors(report: &Value) -> Vec<(String, u64)> {
    let errors = report["errors"].as_array().unwrap().iter();
    errors
        .map(|e| (e["class"].as_str().unwrap().to_owned(), e["count"].as_u64().unwrap()))
        .collect()
}

#[testbed::test]
async fn figures_come_from_the_stamps_of_the_requests() {
    let (first, gap) = (Duration::from_millis(30), Duration::from_millis(10));
    let mock = Mock::start(Some(4096), move |_| Act::Stream { first, gap }).await;
    let arguments = "--rate 50 --arrivals constant --requests 20 --input-tokens 40 \
                     --output-tokens 5 --slo ttft=60s --slo tpot=1ms";
    let done = load(&mock, arguments).await.unwrap();
    let report = &done.report;
    assert_eq!(done.ending, Ending::Good, "{}", done.text);
    assert_eq!(report["counts"]["completed"], 20);
    assert_eq!(report["counts"]["wrong_length"], 0);
    assert_eq!(report["throughput"]["output_tokens"], 100);
    assert_eq!(report["throughput"]["prompt_tokens"], 800);
    assert_eq!(report["throughput"]["prompt_overhead_tokens"], 0.0);
    assert_eq!(report["schedule"]["span_s"], 0.38);
    let latency = &report["latency"];
    assert_eq!(latency["itl_ms"]["count"], 80);
    assert!(latency["ttft_service_ms"]["p50"].as_f64().unwrap() >= 30.0);
    assert!(latency["tpot_ms"]["p50"].as_f64().unwrap() >= 10.0);
    assert!(latency["e2e_service_ms"]["p50"].as_f64().unwrap() >= 70.0);
    // Both SLOs were given. No token takes less than 1 ms here, so no request is good.
    assert_eq!(report["goodput"]["good"], 0);
    assert_eq!(report["goodput"]["per_slo"][0]["attainment"], 1.0);
    assert_eq!(report["goodput"]["per_slo"][1]["attainment"], 0.0);
    for (index, request) in done.requests.iter().enumerate() {
        let stamp = |name: &str| request[name].as_i64().unwrap();
        assert_eq!(stamp("intended_ns"), index as i64 * 20_000_000);
        let order = ["intended_ns", "issued_ns", "dispatched_ns", "written_ns", "first_token_ns"];
        let stamps: Vec<i64> = order.iter().map(|name| stamp(name)).collect();
        assert!(stamps.is_sorted(), "{stamps:?}");
        assert!(stamp("first_token_ns") - stamp("written_ns") >= 30_000_000);
        assert_eq!(request["token_ns"].as_array().unwrap().len(), 5);
    }
}

#[testbed::test]
async fn requests_carry_ids_and_ask_for_the_whole_length() {
    let mock = Mock::start(None, |_| AT_ONCE).await;
    let arguments = "--rate 100 --requests 5 --input-tokens 20..30 --output-tokens 3 \
                     --header x-tenant:blue --extra-body {\"top_k\":1} --token-ids 500..600";
    let done = load(&mock, arguments).await.unwrap();
    let run_id = done.report["workload"]["run_id"].as_str().unwrap();
    let seen = mock.seen();
    assert_eq!(seen.len(), 5);
    for (request, line) in seen.iter().zip(&done.requests) {
        let (head, body) = (&request.head, &request.body);
        assert!(head.starts_with("POST /v1/completions http/1.1"), "{head}");
        assert!(head.contains("x-tenant: blue") && !head.contains("transfer-encoding"), "{head}");
        assert!(head.contains(&format!("baggage: loadgen.run_id={run_id}")), "{head}");
        assert!(head.contains("traceparent: 00-") && head.contains("-01\r\n"), "{head}");
        assert_eq!(body["model"], "mock");
        assert_eq!(body["ignore_eos"], true);
        assert_eq!(body["top_k"], 1);
        assert_eq!(body["stream_options"]["include_usage"], true);
        let prompt = body["prompt"].as_array().unwrap();
        assert!((20..=30).contains(&prompt.len()));
        assert!(prompt.iter().all(|id| (500..600).contains(&id.as_u64().unwrap())));
        let mut trace_ids = done.requests.iter().map(|line| line["trace_id"].as_str().unwrap());
        assert!(trace_ids.any(|id| head.contains(id)));
        assert_eq!(line["completion_tokens"], 3);
    }
    let warnings = &done.report["workload"]["warnings"];
    assert!(warnings[0].as_str().unwrap().contains("does not say"), "{warnings}");
}

#[testbed::test]
async fn each_failure_has_its_class_and_counts_as_a_miss() {
    let script = [
        AT_ONCE,
        Act::Status(429),
        Act::Status(503),
        Act::ErrorEvent,
        Act::Truncate,
        Act::Junk,
        Act::NoStream,
        Act::Close,
        Act::Status(429),
        Act::Hang,
    ];
    let mock = Mock::start(Some(4096), move |n| script[n].clone()).await;
    let arguments = "--rate 100 --arrivals constant --requests 10 --output-tokens 4 --timeout 2s \
                     --max-inflight 1 --slo e2e=60s";
    let done = load(&mock, arguments).await.unwrap();
    let expected = [
        ("http 429", 2),
        ("http 503", 1),
        ("broken connection", 1),
        ("timeout", 1),
        ("sse error", 1),
        ("malformed", 2),
        ("truncated stream", 1),
    ];
    assert_eq!(errors(&done.report), expected.map(|(class, n)| (class.to_owned(), n)));
    assert_eq!(done.report["errors"][0]["example"], "no room");
    assert_eq!(done.report["errors"][4]["example"], "worker died");
    assert_eq!(done.report["counts"]["failed"], 9);
    let goodput = &done.report["goodput"];
    assert_eq!((&goodput["good"], &goodput["offered"]), (&1.into(), &10.into()));
    // Failures have no latency; only the one good reply does.
    assert_eq!(done.report["latency"]["ttft_response_ms"]["count"], 1);
}

#[testbed::test]
async fn nothing_completed_has_an_exit_code_of_its_own() {
    let mock = Mock::start(Some(4096), |_| Act::Status(500)).await;
    let done = load(&mock, "--rate 100 --requests 3").await.unwrap();
    assert_eq!(done.ending, Ending::NothingCompleted);
    assert!(done.text.contains("the server answered no request"), "{}", done.text);
}

#[testbed::test]
async fn a_stalled_server_does_not_hold_the_schedule_back() {
    // The server replies only after all 50 have arrived, so a closed loop would never end.
    let barrier = Arc::new(Barrier::new(50));
    let mock = Mock::start(Some(4096), move |_| Act::Together(barrier.clone())).await;
    let arguments = "--rate 500 --arrivals constant --requests 50 --input-tokens 16";
    let done = load(&mock, arguments).await.unwrap();
    assert_eq!(done.report["counts"]["completed"], 50, "{}", done.text);
    assert_eq!(mock.most_in_flight(), 50);
    let intended = done.requests.iter().map(|r| r["intended_ns"].as_i64().unwrap());
    assert!(intended.eq((0..50).map(|i| i * 2_000_000)));
}

#[testbed::test]
async fn waiting_for_a_slot_counts_as_response_time() {
    let first = Duration::from_millis(20);
    let mock = Mock::start(Some(4096), move |_| Act::Stream { first, gap: Duration::ZERO }).await;
    let arguments = "--rate 1000 --arrivals constant --requests 10 --max-inflight 1";
    let done = load(&mock, arguments).await.unwrap();
    assert_eq!(mock.most_in_flight(), 1);
    let latency = &done.report["latency"];
    // The last one, due after 9 ms, waited for nine others of 20 ms or more.
    assert!(latency["ttft_response_ms"]["max"].as_f64().unwrap() >= 190.0, "{latency}");
    assert!(done.report["schedule"]["queue_wait_ms"]["max"].as_f64().unwrap() >= 170.0);
}

#[testbed::test]
async fn drops_are_misses_and_invalid_unless_asked_for() {
    for (on_full, valid) in [("drop", true), ("abort", false)] {
        let first = Duration::from_millis(500);
        let mock =
            Mock::start(Some(4096), move |_| Act::Stream { first, gap: Duration::ZERO }).await;
        let arguments = format!(
            "--rate 1000 --arrivals constant --requests 10 --max-inflight 2 --on-full {on_full} \
             --timeout 3s --grace 0s --slo ttft=60s"
        );
        let done = load(&mock, &arguments).await.unwrap();
        assert_eq!(done.report["verdict"]["valid"], valid, "{}", done.text);
        let dropped = errors(&done.report).iter().find(|e| e.0 == "dropped").unwrap().1;
        if valid {
            assert_eq!(dropped, 8);
            assert_eq!(done.report["goodput"]["offered"], 10);
        } else {
            assert!(dropped >= 1);
            assert_eq!(done.report["cut_short"], "too many requests in flight");
        }
    }
}

#[testbed::test]
async fn a_stop_reports_what_was_measured() {
    let mock = Mock::start(Some(4096), |n| if n < 3 { AT_ONCE } else { Act::Hang }).await;
    let (stop, stopped) = mpsc::channel(1);
    let arguments = "--rate 50 --arrivals constant --requests 100000 --grace 100ms --slo ttft=60s";
    let (done, ()) = tokio::join!(load_until(&mock, arguments, stopped), async {
        while mock.seen().len() < 6 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.send("Ctrl-C".to_owned()).await.unwrap();
    });
    let done = done.unwrap();
    assert_eq!(done.ending, Ending::CutShort);
    assert_eq!(done.report["cut_short"], "Ctrl-C");
    let count = |name: &str| done.report["counts"][name].as_u64().unwrap();
    assert_eq!(count("completed"), 3);
    assert!(count("cancelled") >= 3);
    assert_eq!(count("offered") + count("cancelled") + count("unsent"), 100_000);
    // All cancelled requests were sent in time, and have their time stamps.
    let schedule = &done.report["schedule"];
    assert_eq!(schedule["achieved_rps"], schedule["offered_rps"]);
    let cut = done.requests.iter().filter(|r| r["error_class"] == "cancelled");
    let stamped = cut.filter(|r| r["dispatched_ns"].is_i64());
    assert_eq!(stamped.count() as u64, count("cancelled"));
    // A cancelled request is not a miss.
    assert_eq!(done.report["goodput"]["attainment"], 1.0);
}

#[testbed::test]
async fn requests_beyond_the_context_are_left_out_and_counted() {
    let mock = Mock::start(Some(100), |_| AT_ONCE).await;
    let arguments = "--rate 500 --requests 40 --input-tokens 20..150 --output-tokens 10";
    let done = load(&mock, arguments).await.unwrap();
    let count = |name: &str| done.report["counts"][name].as_u64().unwrap();
    assert!(count("refused_too_long") > 0 && count("completed") > 0);
    assert_eq!(count("refused_too_long") + count("completed"), 40);
    assert!(mock.seen().iter().all(|s| s.body["prompt"].as_array().unwrap().len() <= 90));
    let refused = load(&mock, &format!("{arguments} --on-too-long error")).await;
    let message = format!("{:#}", refused.err().unwrap());
    assert!(message.contains("the server's context holds 100"), "{message}");
}

#[testbed::test]
async fn a_replayed_trace_hits_the_cache_exactly_as_its_blocks_say() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.jsonl");
    let lines = [
        r#"{"timestamp": 0, "input_length": 1400, "output_length": 9, "hash_ids": [7, 8, 9]}"#,
        r#"{"timestamp": 5, "input_length": 2048, "output_length": 9, "hash_ids": [7, 8, 4, 5]}"#,
        r#"{"timestamp": 9, "input_length": 1024, "output_length": 9, "hash_ids": [7, 8]}"#,
        r#"{"timestamp": 9, "input_length": 600, "output_length": 0, "hash_ids": [3, 4294967303]}"#,
    ];
    std::fs::write(&path, lines.join("\n")).unwrap();
    let mock = Mock::start(Some(4096), |_| AT_ONCE).await;
    let arguments = format!("--trace {} --scale 4 --max-inflight 1", path.display());
    let done = load(&mock, &arguments).await.unwrap();
    let seen = mock.seen();
    let prompts: Vec<&Vec<Value>> =
        seen.iter().map(|s| s.body["prompt"].as_array().unwrap()).collect();
    assert_eq!(prompts.iter().map(|p| p.len()).collect::<Vec<_>>(), [350, 512, 256, 150]);
    assert_eq!(prompts[0][..256], prompts[1][..256]);
    assert_eq!(prompts[1][..256], prompts[2][..]);
    assert_ne!(prompts[0][256], prompts[1][256]);
    assert_ne!(prompts[3][0], prompts[0][0]);
    // 7 and 4294967303 agree in their low 32 bits and are two blocks.
    assert_ne!(prompts[3][128], prompts[0][0]);
    let outputs: Vec<u64> = seen.iter().map(|s| s.body["max_tokens"].as_u64().unwrap()).collect();
    assert_eq!(outputs, [3, 3, 3, 1]);
    let cache = &done.report["cache"];
    // 256 of request 1, 240 of request 2 (its last token is computed) of 1268.
    let expected = 496.0 / 1268.0;
    assert_eq!(cache["ideal_server_token_hit"], expected);
    assert_eq!(cache["observed_token_hit"], expected);
    assert_eq!(cache["efficiency"], 1.0);
}

#[testbed::test]
async fn chat_prompts_are_text() {
    let mock = Mock::start(Some(4096), |_| AT_ONCE).await;
    let arguments = "--endpoint chat --rate 200 --requests 4 --input-tokens 12 --output-tokens 2";
    let done = load(&mock, arguments).await.unwrap();
    assert_eq!(done.report["counts"]["completed"], 4, "{}", done.text);
    {
        let seen = mock.seen();
        assert!(seen[0].head.starts_with("POST /v1/chat/completions"));
        let text = seen[0].body["messages"][0]["content"].as_str().unwrap();
        assert_eq!(text.split(' ').count(), 12);
    }
    let wrong = load(&mock, &format!("{arguments} --prompt-as tokens")).await;
    assert!(format!("{:#}", wrong.err().unwrap()).contains("chat messages are text"));
}

#[testbed::test]
async fn room_is_left_for_what_the_chat_template_adds() {
    let model = testbed::smollm2();
    let mock = Mock::start(Some(4096), |_| AT_ONCE).await;
    let arguments = format!(
        "--endpoint chat --rate 200 --requests 4 --input-tokens 40 --output-tokens 2 \
         --vocab-tokenizer {}",
        model.display()
    );
    let done = load(&mock, &arguments).await.unwrap();
    assert_eq!(done.report["throughput"]["prompt_overhead_tokens"], 0.0, "{}", done.text);
    assert!(done.text.contains("17 tokens shorter than planned"), "{}", done.text);
    let words = |at: usize| {
        let seen = mock.seen();
        let text = seen[at].body["messages"][0]["content"].as_str().unwrap();
        text.split_whitespace().count()
    };
    // The first request measured it.
    let sent = mock.seen().len();
    assert_eq!((sent, words(0)), (5, 32));
    assert!((1..5).all(|at| words(at) + mock::TEMPLATE_TOKENS == 40));
    let short = arguments.replace("--input-tokens 40", "--input-tokens 10");
    let done = load(&mock, &short).await.unwrap();
    assert!(
        done.text.contains("4 prompts are planned no longer than the 17 tokens"),
        "{}",
        done.text
    );
}

#[testbed::test]
async fn the_same_seed_plans_the_same_bytes() {
    let mock = Mock::start(Some(4096), |_| AT_ONCE).await;
    let folder = tempfile::tempdir().unwrap();
    let plan = async |name: &str, seed: u32| {
        let path = folder.path().join(name);
        let arguments = format!(
            "--rate 300 --requests 20 --input-tokens 5..90 --seed {seed} --emit-schedule {}",
            path.display()
        );
        load(&mock, &arguments).await.unwrap();
        std::fs::read(&path).unwrap()
    };
    let prompts = |skip: usize| {
        let seen = mock.seen();
        let mut all: Vec<String> = seen[skip..].iter().map(|s| s.body.to_string()).collect();
        all.sort();
        all
    };
    let one = plan("one", 5).await;
    let first = prompts(0);
    assert_eq!(one, plan("two", 5).await);
    assert_eq!(first, prompts(20));
    assert_ne!(one, plan("three", 6).await);
}

#[testbed::test]
async fn a_missing_server_is_named() {
    let mock = Mock::start(Some(4096), |_| AT_ONCE).await;
    let url = mock.url.clone();
    drop(mock);
    let (_stop, stopped) = mpsc::channel(1);
    let words = ["loadgen", "run", "--rate", "1", "--requests", "1", "--url", &url];
    let Command::Run(args) = Cli::try_parse_from(words).unwrap().command else { panic!("no run") };
    let error = run(&args, stopped).await.err().unwrap().to_string();
    assert!(error.starts_with(&format!("no answer from {url}/v1/models")), "{error}");
}

#[testbed::test]
fn wrong_usage_is_refused() {
    for words in [
        "run",
        "run --rate 1 --trace x",
        "run --rate 1 --slo itl=5ms",
        "run --trace x --window 9s..3s",
        "run --rate 1 --max-inflight 0",
        "run --trace x --scale 0",
    ] {
        let words = std::iter::once("loadgen").chain(words.split(' '));
        assert!(Cli::try_parse_from(words.clone()).is_err(), "{:?}", words.collect::<Vec<_>>());
    }
    assert!(Path::new(env!("CARGO_BIN_EXE_loadgen")).exists());
}
