//! Log-probabilities in the shapes of both endpoints, and the scoring of prompts.

use protocol::Finish;
use serde_json::{Value, json};

use crate::bench::{Bench, Plan};

#[testbed::test]
async fn a_chat_reports_each_token_with_its_bytes() {
    let bench = Bench::start().await;
    bench.backend.then(Plan::cut("é"));
    let (_, answer) = bench.chat(json!({ "logprobs": true, "top_logprobs": 2 })).await;
    let top = json!([
        { "token": "A", "logprob": -1.0, "bytes": [65] },
        { "token": "B", "logprob": -2.0, "bytes": [66] },
    ]);
    let expected = json!({ "content": [
        { "token": "\\xc3", "logprob": -24.375, "bytes": [195], "top_logprobs": top },
        { "token": "\\xa9", "logprob": -21.125, "bytes": [169], "top_logprobs": top },
    ], "refusal": null });
    assert_eq!(answer["choices"][0]["logprobs"], expected);
}

#[testbed::test]
async fn a_completion_reports_offsets_in_characters() {
    let bench = Bench::start().await;
    bench.backend.then(Plan::cut("éab"));
    let (_, answer) = bench.complete(json!({ "logprobs": 1 })).await;
    let expected = json!({
        "tokens": ["bytes:\\xc3", "bytes:\\xa9", "a", "b"],
        "token_logprobs": [-24.375, -21.125, -12.125, -12.25],
        "top_logprobs": [
            { "A": -1.0, "bytes:\\xc3": -24.375 },
            { "A": -1.0, "bytes:\\xa9": -21.125 },
            { "A": -1.0, "a": -12.125 },
            { "A": -1.0, "b": -12.25 },
        ],
        "text_offset": [0, 0, 1, 2],
    });
    assert_eq!(answer["choices"][0]["logprobs"], expected);
}

#[testbed::test]
async fn a_prompt_is_scored_without_generating() {
    let bench = Bench::start().await;
    bench.backend.then(Plan::says("never"));
    let body = json!({ "echo": true, "logprobs": 0, "max_tokens": 0, "prompt": "aéb" });
    let (status, answer) = bench.complete(body).await;
    assert_eq!(status, 200, "{answer}");
    let choice = &answer["choices"][0];
    assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!("aéb"), &json!("length")));
    let logprobs = &choice["logprobs"];
    assert_eq!(logprobs["token_logprobs"], json!([null, -24.375, -21.125, -12.25]));
    assert_eq!(logprobs["text_offset"], json!([0, 1, 1, 2]));
    assert_eq!(logprobs["top_logprobs"][0], Value::Null);
    assert_eq!(logprobs["top_logprobs"][3], json!({ "b": -12.25 }));
    assert_eq!(answer["usage"]["completion_tokens"], 0);
    let generation = bench.backend.generations().remove(0);
    assert_eq!((generation.stopping.max_tokens, generation.prompt_logprobs), (0, Some(0)));
}

#[testbed::test]
async fn a_prompt_that_fills_the_context_can_be_scored() {
    let bench = Bench::start().await;
    let body = json!({ "echo": true, "logprobs": 0, "max_tokens": 0, "prompt": "x".repeat(256) });
    assert_eq!(bench.complete(body).await.0, 200);
}

#[testbed::test]
async fn echoed_scores_come_before_those_of_the_output() {
    let bench = Bench::start().await;
    bench.backend.then(Plan::cut("!"));
    let body = json!({ "echo": true, "logprobs": 0, "max_tokens": 1 });
    let (_, answer) = bench.complete(body).await;
    let logprobs = &answer["choices"][0]["logprobs"];
    assert_eq!(logprobs["tokens"], json!(["H", "i", "!"]));
    assert_eq!(logprobs["text_offset"], json!([0, 1, 2]));
}

#[testbed::test]
async fn streamed_logprobs_are_those_of_the_whole_answer() {
    let bench = Bench::start().await;
    let plan = Plan { finish: Some(Finish::Stop), ..Plan::says("éa.b") };
    for _ in 0..2 {
        bench.backend.then(plan.clone());
    }
    let body = json!({ "logprobs": true, "top_logprobs": 1 });
    let (_, whole) = bench.chat(body.clone()).await;
    let chunks = bench.stream("/v1/chat/completions", body).await;
    let streamed: Vec<Value> = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array().cloned())
        .flatten()
        .collect();
    assert_eq!(Value::from(streamed), whole["choices"][0]["logprobs"]["content"]);
}
