//! Servers that answer in their own ways: fields, chunks, ends of a stream, lists of models, keys.

use std::time::Duration;

use clap::Parser;
use loadgen::cli::{Cli, Command, Ending, run::execute as run};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::mock::{Act, Mock};

const NOW: Duration = Duration::ZERO;
const DONE: (Duration, &str) = (NOW, "data: [DONE]\n\n");

/// Results of a run.
struct Done {
    report: Value,
    ending: Ending,
    text: String,
}

/// Runs a load of ten requests, at 50/s unless there is another rate.
async fn load(mock: &Mock, arguments: &[&str]) -> anyhow::Result<Done> {
    let usual = ["--requests", "10", "--output-tokens", "4", "--slo", "ttft=500ms"];
    let rate: &[&str] = if arguments.contains(&"--rate") { &[] } else { &["--rate", "50"] };
    load_of(mock, &[&usual, rate, arguments].concat()).await
}

async fn load_of(mock: &Mock, arguments: &[&str]) -> anyhow::Result<Done> {
    let folder = tempfile::tempdir()?;
    let json = folder.path().join("report.json");
    let fixed = format!(
        "loadgen run --progress none --lag-limit 60s --url {} --json {}",
        mock.url,
        json.display()
    );
    let words = fixed.split(' ').chain(arguments.iter().copied());
    let Command::Run(args) = Cli::try_parse_from(words)?.command else { panic!("not a run") };
    let (_stop, stopped) = mpsc::channel(1);
    let (text, ending) = run(&args, stopped).await?;
    Ok(Done { report: serde_json::from_str(&std::fs::read_to_string(json)?)?, ending, text })
}

/// Runs chats against a server that answers with `pieces`.
async fn chats(pieces: &'static [(Duration, &'static str)]) -> Done {
    let mock = Mock::start(Some(4096), move |_| Act::Pieces(pieces)).await;
    load(&mock, &["--endpoint", "chat"]).await.unwrap()
}

/// Returns the number of requests that completed, failed, and met every SLO.
fn outcome(done: &Done) -> (u64, u64, u64) {
    let count = |of: &Value| of.as_u64().unwrap();
    let counts = &done.report["counts"];
    (count(&counts["completed"]), count(&counts["failed"]), count(&done.report["goodput"]["good"]))
}

#[testbed::test]
async fn thinking_is_the_first_token() {
    const THINKING: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"reasoning\":\"Okay\"},\"finish_reason\":null}]}\n\n";
    const LATER: Duration = Duration::from_secs(1);
    let done = chats(&[
        (NOW, THINKING),
        (
            LATER,
            "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"4\"},\"finish_reason\":\"stop\"}]}\n\n",
        ),
        DONE,
    ])
    .await;
    assert_eq!(outcome(&done), (10, 0, 10), "{}", done.text);
    let slowest = done.report["latency"]["ttft_service_ms"]["max"].as_f64().unwrap();
    assert!(slowest < 1000.0, "{slowest}");
    let fields = &done.report["counting"]["chunks_by_field"];
    assert_eq!((&fields["reasoning"], &fields["content"]), (&10.into(), &10.into()));
    assert!(done.text.contains("chunks with text: content 10, reasoning 10"), "{}", done.text);
}

#[testbed::test]
async fn tool_calls_and_refusals_are_answers() {
    let tools = chats(&[
        (NOW, "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":null}}]}\n\n"),
        (
            NOW,
            "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"c\",\"type\":\"function\",\
             \"function\":{\"name\":\"weather\",\"arguments\":\"\"}}]}}]}\n\n",
        ),
        (
            NOW,
            "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"{}\"}}]}}]}\n\n",
        ),
        (NOW, "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\n"),
        DONE,
    ])
    .await;
    assert_eq!(outcome(&tools), (10, 0, 10), "{}", tools.text);
    assert_eq!(tools.report["counting"]["chunks_by_field"]["tool_calls"], 20);
    assert_eq!(tools.report["counting"]["finish_reasons"]["tool_calls"], 10);
    let refusal = chats(&[
        (NOW, "data: {\"choices\":[{\"delta\":{\"refusal\":\"No.\"},\"finish_reason\":\"stop\"}]}\n\n"),
        DONE,
    ])
    .await;
    assert_eq!(outcome(&refusal), (10, 0, 10), "{}", refusal.text);
    assert_eq!(refusal.report["counting"]["chunks_by_field"]["refusal"], 10);
}

#[testbed::test]
async fn chunks_without_a_choice_are_passed_over_and_counted() {
    let done = chats(&[
        (
            NOW,
            "data: {\"id\":\"\",\"object\":\"\",\"created\":0,\"model\":\"\",\"choices\":[],\
             \"prompt_filter_results\":[]}\n\n",
        ),
        (NOW, "data: {\"id\":\"x\",\"choices\":null}\n\n"),
        (
            NOW,
            "data: {\"choices\":[{\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}]}\n\n",
        ),
        DONE,
    ])
    .await;
    assert_eq!(outcome(&done), (10, 0, 10), "{}", done.text);
    assert_eq!(done.report["counting"]["empty_chunks"], 20);
    assert_eq!(done.report["counting"]["without_usage"], 10);
}

#[testbed::test]
async fn answers_that_were_given_up_or_are_empty_are_failures() {
    let aborted = chats(&[
        (
            NOW,
            "data: {\"choices\":[{\"delta\":{\"content\":\"a\"},\"finish_reason\":\"abort\"}]}\n\n",
        ),
        DONE,
    ])
    .await;
    assert_eq!(outcome(&aborted), (0, 10, 0), "{}", aborted.text);
    assert_eq!(aborted.report["errors"][0]["class"], "given up by the server");
    assert_eq!(aborted.report["counting"]["finish_reasons"]["abort"], 10);
    let empty = chats(&[
        (NOW, "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n"),
        DONE,
    ])
    .await;
    assert_eq!(outcome(&empty), (0, 10, 0), "{}", empty.text);
    assert_eq!(empty.report["errors"][0]["class"], "empty answer");
    for done in [aborted, empty] {
        assert_eq!(done.ending, Ending::NothingCompleted);
        assert_eq!(done.report["verdict"]["valid"], false, "{}", done.text);
        assert!(done.text.contains("INVALID   the server answered no request"), "{}", done.text);
    }
}

#[testbed::test]
async fn a_few_failures_are_said_beside_the_verdict() {
    const ABORT: &[(Duration, &str)] =
        &[(NOW, "data: {\"choices\":[{\"text\":\"\",\"finish_reason\":\"abort\"}]}\n\n"), DONE];
    let at_once = Act::Stream { first: NOW, gap: NOW };
    let mock = Mock::start(Some(4096), move |n| match n {
        0..3 => Act::Pieces(ABORT),
        _ => at_once.clone(),
    })
    .await;
    let done = load(&mock, &[]).await.unwrap();
    assert_eq!(outcome(&done), (7, 3, 7), "{}", done.text);
    assert!(done.text.contains("; 3 of 10 requests failed"), "{}", done.text);
}

#[testbed::test]
async fn done_may_lack_its_blank_line() {
    const LAST: (Duration, &str) = (
        NOW,
        "data: {\"choices\":[{\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}]}\n\n",
    );
    for done in
        [chats(&[LAST, (NOW, "data: [DONE]\n")]).await, chats(&[LAST, (NOW, "data: [DONE]")]).await]
    {
        assert_eq!(outcome(&done), (10, 0, 10), "{}", done.text);
        assert_eq!(done.report["counting"]["unclosed_done"], 10);
    }
    let cut = chats(&[LAST]).await;
    assert_eq!(cut.report["errors"][0]["class"], "truncated stream");
}

#[testbed::test]
async fn aliases_and_servers_without_a_list_of_models_are_used_with_a_warning() {
    let mock = Mock::start(Some(4096), |_| Act::Stream { first: NOW, gap: NOW }).await;
    let alias = load(&mock, &["--model", "other"]).await.unwrap();
    assert_eq!(outcome(&alias), (10, 0, 10), "{}", alias.text);
    let warning = "the server does not list the model \"other\", only: mock";
    assert!(alias.text.contains(warning), "{}", alias.text);
    assert_eq!(mock.seen()[0].body["model"], "other");
    mock.list_nothing();
    let unlisted = load(&mock, &["--model", "x"]).await.unwrap();
    assert_eq!(outcome(&unlisted), (10, 0, 10), "{}", unlisted.text);
    assert!(unlisted.text.contains("does not list models: http 404"), "{}", unlisted.text);
    let unnamed = load(&mock, &[]).await.err().unwrap();
    assert!(format!("{unnamed:#}").starts_with("name the model with --model: "), "{unnamed:#}");
}

#[testbed::test]
async fn the_servers_own_gauges_are_in_the_report() {
    let first = Duration::from_millis(300);
    let mock = Mock::start(Some(4096), move |_| Act::Stream { first, gap: NOW }).await;
    // Ten requests at 4/s last 2.5 s, which is time for two scrapes.
    let slow = ["--rate", "4", "--arrivals", "constant"];
    let done = load(&mock, &slow).await.unwrap();
    let server = &done.report["server"];
    assert!(server["in_window"].as_u64().unwrap() >= 1, "{server}");
    assert_eq!((&server["waiting"]["max"], &server["kv_used"]["mean"]), (&3.0.into(), &0.5.into()));
    assert!(done.text.contains("queued mean 3.0 max 3 · KV memory mean 50.0 %"), "{}", done.text);
    let none = load(&mock, &["--server-metrics", "none"]).await.unwrap();
    assert!(none.report["server"].is_null());
    let elsewhere = load(&mock, &["--server-metrics", "http://127.0.0.1:1/metrics"]).await.unwrap();
    assert!(elsewhere.text.contains("not recorded: no answer from"), "{}", elsewhere.text);
}

#[testbed::test]
async fn a_key_is_sent_and_never_shown() {
    let mock = Mock::start(Some(4096), |_| Act::Stream { first: NOW, gap: NOW }).await;
    let done = load(&mock, &["--api-key", "s3cret"]).await.unwrap();
    assert!(mock.seen()[0].head.contains("authorization: bearer s3cret"));
    assert!(!done.report.to_string().contains("s3cret"));
    let own = load(&mock, &["--api-key", "s3cret", "--header", "Authorization: mine"]).await;
    assert!(own.is_ok());
    assert!(mock.seen().last().unwrap().head.contains("authorization: mine"));
    let refused = load(&mock, &["--api-key", "a\nb"]).await.err().unwrap();
    assert!(!refused.to_string().is_empty());
}

/// Returns the role and the number of words of each message.
fn messages(body: &Value) -> Vec<(String, usize)> {
    let mut messages = Vec::new();
    for message in body["messages"].as_array().unwrap() {
        let words = message["content"].as_str().unwrap().split(' ').count();
        messages.push((message["role"].as_str().unwrap().to_owned(), words));
    }
    messages
}

#[testbed::test]
async fn the_turns_of_a_session_are_messages() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("session.json");
    // The third turn has another beginning: the session was rewritten.
    let session = serde_json::json!({
        "id": "s", "block_size": 4, "hash_id_scope": "local", "tool_tokens": 0, "system_tokens": 0,
        "requests": [
            { "t": 0.0, "type": "s", "model": "m", "in": 10, "out": 5, "hash_ids": [1, 2, 3] },
            { "t": 0.1, "type": "s", "model": "m", "in": 20, "out": 5, "hash_ids": [1, 2, 4, 5, 6] },
            { "t": 0.2, "type": "s", "model": "m", "in": 8, "out": 5, "hash_ids": [7, 8] },
        ],
    });
    std::fs::write(&trace, session.to_string()).unwrap();
    let trace = trace.to_str().unwrap();
    let mock = Mock::start(Some(4096), |_| Act::Stream { first: NOW, gap: NOW }).await;
    let replay = ["--trace", trace, "--turns", "after-previous", "--session-rate", "10"];
    let chat = [&replay[..], &["--endpoint", "chat"]].concat();
    let done = load_of(&mock, &chat).await.unwrap();
    assert_eq!(done.report["counts"]["completed"], 3, "{}", done.text);
    let lengths = |skip: usize| -> Vec<Vec<(String, usize)>> {
        mock.seen()[skip..].iter().map(|seen| messages(&seen.body)).collect()
    };
    let user = |words: usize| ("user".to_owned(), words);
    let chats =
        [vec![user(10)], vec![user(10), ("assistant".to_owned(), 5), user(5)], vec![user(8)]];
    assert_eq!(lengths(0), chats);
    let one = [&chat[..], &["--messages", "one"]].concat();
    load_of(&mock, &one).await.unwrap();
    assert_eq!(lengths(3), [[user(10)], [user(20)], [user(8)]]);
}
