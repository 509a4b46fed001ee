//! Streamed answers: the sequence of chunks, usage, errors in mid-stream, clients that go away.

use std::time::Duration;

use protocol::{CancelReason, ErrorClass};
use serde_json::{Value, json};
use testbed::eventually;

use crate::bench::{Bench, GivenUp, Plan, chat_body, completion_body, limits, merged};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

fn contents(chunks: &[Value]) -> Vec<&str> {
    let deltas = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]);
    deltas.filter_map(|delta| Some(delta.get("content")?.as_str().unwrap())).collect()
}

#[testbed::test]
async fn a_chat_streams_role_then_tokens_then_the_reason() {
    let bench = Bench::start().await;
    bench.backend.then(Plan::says("Hey"));
    let chunks = bench.stream(CHAT, json!({})).await;
    let deltas: Vec<Value> =
        chunks.iter().map(|chunk| chunk["choices"][0]["delta"].clone()).collect();
    let expected = json!([
        { "role": "assistant", "content": "" },
        { "content": "H" }, { "content": "e" }, { "content": "y" },
        {},
    ]);
    assert_eq!(Value::from(deltas), expected);
    for chunk in &chunks {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert_eq!((&chunk["id"], &chunk["model"]), (&chunks[0]["id"], &json!("bytes")));
        assert_eq!(chunk["created"], chunks[0]["created"]);
        assert!(chunk.get("usage").is_none(), "{chunk}");
    }
    let reasons: Vec<&Value> =
        chunks.iter().map(|chunk| &chunk["choices"][0]["finish_reason"]).collect();
    assert_eq!(reasons[4], "stop");
    assert!(reasons[..4].iter().all(|reason| reason.is_null()));
}

#[testbed::test]
async fn a_completion_streams_text_then_the_reason() {
    let bench = Bench::start().await;
    bench.backend.then(Plan::cut("ab"));
    let chunks = bench.stream(COMPLETIONS, json!({})).await;
    let choices: Vec<Value> = chunks.iter().map(|chunk| chunk["choices"][0].clone()).collect();
    let expected = json!([
        { "index": 0, "text": "a", "logprobs": null, "finish_reason": null },
        { "index": 0, "text": "b", "logprobs": null, "finish_reason": null },
        { "index": 0, "text": "", "logprobs": null, "finish_reason": "length", "stop_reason": null },
    ]);
    assert_eq!(Value::from(choices), expected);
    assert!(chunks[0]["id"].as_str().unwrap().starts_with("cmpl-"));
    assert_eq!(chunks[0]["object"], "text_completion");
}

#[testbed::test]
async fn usage_comes_last_and_is_null_before() {
    let bench = Bench::start().await;
    bench.backend.then(Plan { cached_tokens: 16, ..Plan::says("a") });
    let chunks = bench.stream(CHAT, json!({ "stream_options": { "include_usage": true } })).await;
    let (last, before) = chunks.split_last().unwrap();
    assert_eq!(last["choices"], json!([]));
    let expected = json!({
        "prompt_tokens": 21, "completion_tokens": 2, "total_tokens": 23,
        "prompt_tokens_details": { "cached_tokens": 16 },
    });
    assert_eq!(last["usage"], expected);
    assert!(before.iter().all(|chunk| chunk.get("usage") == Some(&Value::Null)));
}

#[testbed::test]
async fn continuous_usage_counts_along() {
    let bench = Bench::start().await;
    bench.backend.then(Plan::cut("abc"));
    let options =
        json!({ "stream_options": { "include_usage": true, "continuous_usage_stats": true } });
    let chunks = bench.stream(COMPLETIONS, options).await;
    let counts: Vec<u64> =
        chunks.iter().map(|chunk| chunk["usage"]["completion_tokens"].as_u64().unwrap()).collect();
    assert_eq!(counts, [1, 2, 3, 3, 3]);
}

#[testbed::test]
async fn characters_stay_whole_and_stop_strings_stay_back() {
    let bench = Bench::start().await;
    bench.backend.then(Plan::hangs_after("é🦀 EN END x"));
    let chunks = bench.stream(CHAT, json!({ "stop": "END" })).await;
    let contents = contents(&chunks);
    assert_eq!(contents.concat(), "é🦀 EN ");
    assert!(contents.iter().all(|content| !content.contains('\u{fffd}')), "{contents:?}");
    assert_eq!(chunks.last().unwrap()["choices"][0]["stop_reason"], "END");
    eventually("the workers are stopped", async || {
        bench.backend.given_up() == [GivenUp::Stopped(CancelReason::StopString)]
    })
    .await;
}

#[testbed::test]
async fn echo_streams_the_prompt_first() {
    let bench = Bench::start().await;
    bench.backend.then(Plan::cut("!"));
    let chunks = bench.stream(COMPLETIONS, json!({ "echo": true })).await;
    assert_eq!(chunks[0]["choices"][0]["text"], "Hi!");
}

#[testbed::test]
async fn every_choice_of_a_stream_begins_and_ends() {
    let bench = Bench::start().await;
    bench.backend.then(Plan::says("ab")).then(Plan::cut("c"));
    let chunks = bench.stream(CHAT, json!({ "n": 2 })).await;
    for (index, text, reason) in [(0, "ab", "stop"), (1, "c", "length")] {
        let mine: Vec<Value> =
            chunks.iter().filter(|chunk| chunk["choices"][0]["index"] == index).cloned().collect();
        assert_eq!(mine[0]["choices"][0]["delta"]["role"], "assistant");
        assert_eq!(contents(&mine).concat(), text);
        assert_eq!(mine.last().unwrap()["choices"][0]["finish_reason"], reason);
    }
}

#[testbed::test]
async fn a_failure_before_the_first_token_is_a_status() {
    let bench = Bench::start().await;
    bench.backend.then(Plan::fails_after("", ErrorClass::Retry));
    let body = merged(chat_body(), json!({ "stream": true }));
    let response = bench.post(CHAT, &body).send().await.unwrap();
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["retry-after"], "3");
    let error: Value = response.json().await.unwrap();
    assert_eq!(error["error"]["message"], "worker d1 is gone");
}

#[testbed::test]
async fn a_failure_in_mid_stream_is_an_event() {
    let bench = Bench::start().await;
    bench.backend.then(Plan::fails_after("ab", ErrorClass::Deadline));
    let chunks = bench.stream(CHAT, json!({})).await;
    let (last, before) = chunks.split_last().unwrap();
    assert_eq!(contents(before), ["", "a", "b"]);
    assert_eq!(last["error"]["code"], 504);
    assert_eq!(last["error"]["message"], "worker d1 is gone");
}

#[testbed::test]
async fn a_failed_choice_gives_up_the_others() {
    let bench = Bench::start().await;
    bench.backend.then(Plan::hangs_after("a")).then(Plan::fails_after("b", ErrorClass::Internal));
    let chunks = bench.stream(COMPLETIONS, json!({ "n": 2 })).await;
    assert_eq!(chunks.last().unwrap()["error"]["code"], 500);
    eventually("the other is given up", async || bench.backend.given_up() == [GivenUp::Dropped])
        .await;
}

#[testbed::test]
async fn a_client_that_leaves_a_stream_gives_the_generation_up() {
    let bench = Bench::start().await;
    bench.backend.then(Plan::hangs_after("a"));
    let body = merged(chat_body(), json!({ "stream": true }));
    let mut response = bench.post(CHAT, &body).send().await.unwrap();
    assert!(response.chunk().await.unwrap().is_some());
    assert!(bench.backend.given_up().is_empty());
    drop(response);
    eventually("the generation is given up", async || {
        bench.backend.given_up() == [GivenUp::Dropped]
    })
    .await;
    let (_, metrics) = bench.get("/metrics").await;
    assert!(metrics.contains("finished_reason=\"abort\""), "{metrics}");
}

#[testbed::test]
async fn a_client_that_leaves_before_the_answer_gives_the_generation_up() {
    let bench = Bench::start().await;
    bench.backend.then(Plan::hangs_after(""));
    let request = bench.post(COMPLETIONS, &completion_body()).send();
    let left = tokio::time::timeout(Duration::from_millis(300), request).await;
    assert!(left.is_err());
    eventually("the generation is given up", async || {
        bench.backend.given_up() == [GivenUp::Dropped]
    })
    .await;
}

#[testbed::test]
async fn a_generation_without_end_ends_by_its_deadline() {
    let limits = gateway::Limits { request_timeout: Duration::from_millis(50), ..limits() };
    let bench = Bench::with(limits, chassis::Tracer::off()).await;
    bench.backend.then(Plan::hangs_after("")).then(Plan::hangs_after("a"));
    let (status, answer) = bench.chat(json!({})).await;
    assert_eq!((status, &answer["error"]["code"]), (504, &json!(504)));
    assert_eq!(bench.backend.given_up(), [GivenUp::Stopped(CancelReason::Deadline)]);
    let chunks = bench.stream(CHAT, json!({})).await;
    assert_eq!(chunks.last().unwrap()["error"]["code"], 504);
}
