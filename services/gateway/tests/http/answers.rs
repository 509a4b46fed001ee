//! Whole responses: shapes, usage, choices, stop conditions, echo, the small endpoints.

use protocol::{CancelReason, Finish};
use serde_json::json;

use crate::bench::{Bench, CONTEXT_TOKENS, GivenUp, IM_END, Plan};

#[testbed::test]
async fn a_chat_answer_has_the_openai_shape() {
    let bench = Bench::start().await;
    bench.backend.then(Plan { cached_tokens: 16, ..Plan::says("Hello") });
    let (status, answer) = bench.chat(json!({})).await;
    assert_eq!(status, 200);
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"), "{answer}");
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], "bytes");
    assert!(answer["created"].as_u64().unwrap() > 1_700_000_000);
    let expected = json!([{
        "index": 0,
        "message": { "role": "assistant", "content": "Hello", "refusal": null },
        "logprobs": null,
        "finish_reason": "stop",
        "stop_reason": null,
    }]);
    assert_eq!(answer["choices"], expected);
    // "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n" and five bytes with the end token.
    let expected = json!({
        "prompt_tokens": 21, "completion_tokens": 6, "total_tokens": 27,
        "prompt_tokens_details": { "cached_tokens": 16 },
    });
    assert_eq!(answer["usage"], expected);
}

#[testbed::test]
async fn a_completion_has_the_openai_shape() {
    let bench = Bench::start().await;
    bench.backend.then(Plan::cut(" there"));
    let (status, answer) = bench.complete(json!({})).await;
    assert_eq!(status, 200);
    assert!(answer["id"].as_str().unwrap().starts_with("cmpl-"), "{answer}");
    assert_eq!(answer["object"], "text_completion");
    let expected = json!([{
        "index": 0, "text": " there", "logprobs": null, "finish_reason": "length",
        "stop_reason": null,
    }]);
    assert_eq!(answer["choices"], expected);
    assert_eq!(bench.backend.generations()[0].stopping.max_tokens, 16);
    assert_eq!(bench.backend.generations()[0].stopping.stop_tokens, [IM_END]);
}

#[testbed::test]
async fn choices_are_numbered_by_prompt_and_n_and_the_prompt_counts_once() {
    let bench = Bench::start().await;
    for text in ["a", "b", "c", "d"] {
        bench.backend.then(Plan { cached_tokens: 1, ..Plan::cut(text) });
    }
    let (status, answer) =
        bench.complete(json!({ "prompt": ["xy", [120]], "n": 2, "seed": 9 })).await;
    assert_eq!(status, 200, "{answer}");
    let choices = answer["choices"].as_array().unwrap();
    let shown: Vec<(u64, &str)> = choices
        .iter()
        .map(|choice| (choice["index"].as_u64().unwrap(), choice["text"].as_str().unwrap()))
        .collect();
    assert_eq!(shown, [(0, "a"), (1, "b"), (2, "c"), (3, "d")]);
    assert_eq!(answer["usage"]["prompt_tokens"], 3);
    assert_eq!(answer["usage"]["completion_tokens"], 4);
    assert_eq!(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 2);
    let generations = bench.backend.generations();
    let seeds: Vec<u64> = generations.iter().map(|it| it.sampling.seed).collect();
    assert_eq!(seeds[0], 9);
    assert_ne!(seeds[0], seeds[1]);
    assert_eq!(seeds[..2], seeds[2..]);
    assert_eq!(generations[2].prompt[..], [120]);
    let requests: std::collections::BTreeSet<_> = generations.iter().map(|it| it.request).collect();
    assert_eq!(requests.len(), 4);
}

#[testbed::test]
async fn without_a_seed_every_request_has_one_of_its_own() {
    let bench = Bench::start().await;
    for _ in 0..2 {
        assert_eq!(bench.chat(json!({})).await.0, 200);
    }
    let generations = bench.backend.generations();
    assert_ne!(generations[0].sampling.seed, generations[1].sampling.seed);
}

#[testbed::test]
async fn a_stop_string_is_cut_and_stops_the_workers() {
    let bench = Bench::start().await;
    bench.backend.then(Plan::hangs_after("one\n\ntwo"));
    let (_, answer) = bench.chat(json!({ "stop": ["\n\nt", "zzz"] })).await;
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"]["content"], "one");
    assert_eq!(
        (&choice["finish_reason"], &choice["stop_reason"]),
        (&json!("stop"), &json!("\n\nt"))
    );
    assert_eq!(answer["usage"]["completion_tokens"], 6);
    assert_eq!(bench.backend.given_up(), [GivenUp::Stopped(CancelReason::StopString)]);

    bench.backend.then(Plan::hangs_after("one\n\ntwo"));
    let body = json!({ "stop": "\n\n", "include_stop_str_in_output": true });
    let (_, answer) = bench.chat(body).await;
    assert_eq!(answer["choices"][0]["message"]["content"], "one\n\n");
}

#[testbed::test]
async fn a_stop_string_before_min_tokens_is_text() {
    let bench = Bench::start().await;
    bench.backend.then(Plan::says("x.y.z"));
    let (_, answer) = bench.chat(json!({ "stop": ".", "min_tokens": 2 })).await;
    assert_eq!(answer["choices"][0]["message"]["content"], "x.y");
}

#[testbed::test]
async fn a_clients_stop_token_is_named_and_not_shown() {
    let bench = Bench::start().await;
    let plan = Plan { tokens: vec![97, 98], ..Plan::says("") };
    bench.backend.then(plan.clone());
    let (_, answer) = bench.chat(json!({ "stop_token_ids": [98], "ignore_eos": true })).await;
    let choice = &answer["choices"][0];
    assert_eq!((&choice["message"]["content"], &choice["stop_reason"]), (&json!("a"), &json!(98)));
    assert_eq!(bench.backend.generations()[0].stopping.stop_tokens, [98]);
}

#[testbed::test]
async fn special_tokens_are_text_only_when_asked_for() {
    let bench = Bench::start().await;
    let plan = Plan { tokens: vec![256, 97], finish: Some(Finish::Length), ..Plan::says("") };
    bench.backend.then(plan.clone()).then(plan);
    let (_, answer) = bench.complete(json!({})).await;
    assert_eq!(answer["choices"][0]["text"], "a");
    let (_, answer) = bench.complete(json!({ "skip_special_tokens": false })).await;
    assert_eq!(answer["choices"][0]["text"], "<|im_start|>a");
}

#[testbed::test]
async fn echo_gives_the_prompt_first() {
    let bench = Bench::start().await;
    bench.backend.then(Plan::cut("!")).then(Plan::cut("!"));
    let (_, answer) = bench.complete(json!({ "echo": true })).await;
    assert_eq!(answer["choices"][0]["text"], "Hi!");
    let (_, answer) = bench.complete(json!({ "echo": true, "prompt": [72, 256, 105] })).await;
    assert_eq!(answer["choices"][0]["text"], "H<|im_start|>i!");
}

#[testbed::test]
async fn unfinished_characters_are_replaced_at_the_end_only() {
    let bench = Bench::start().await;
    let tokens = "é".bytes().chain([0xf0, 0x9f]).map(u32::from).collect();
    bench.backend.then(Plan { tokens, ..Plan::cut("") });
    let (_, answer) = bench.complete(json!({})).await;
    assert_eq!(answer["choices"][0]["text"], "é\u{fffd}");
}

#[testbed::test]
async fn output_defaults_to_what_the_context_leaves() {
    let bench = Bench::start().await;
    bench.chat(json!({})).await;
    assert_eq!(bench.backend.generations()[0].stopping.max_tokens, CONTEXT_TOKENS - 21);
    bench.complete(json!({ "prompt": "x".repeat(250) })).await;
    assert_eq!(bench.backend.generations()[1].stopping.max_tokens, 6);
    bench.chat(json!({ "max_completion_tokens": 5, "max_tokens": 9 })).await;
    assert_eq!(bench.backend.generations()[2].stopping.max_tokens, 5);
}

#[testbed::test]
async fn the_small_endpoints_answer() {
    let bench = Bench::start().await;
    let (status, models) = bench.get("/v1/models").await;
    let models: serde_json::Value = serde_json::from_str(&models).unwrap();
    assert_eq!((status, &models["object"]), (200, &json!("list")));
    assert_eq!(models["data"][0]["id"], "bytes");
    assert_eq!(models["data"][0]["max_model_len"], CONTEXT_TOKENS);
    assert_eq!(models["data"][0]["vocab_size"], 258);
    assert_eq!(bench.get("/v1/models/bytes").await.0, 200);
    assert_eq!(bench.get("/v1/models/no/such").await.0, 404);
    for path in ["/health", "/ping", "/ready", "/version"] {
        assert_eq!(bench.get(path).await.0, 200, "{path}");
    }
    let (_, tokens) = bench.ask("/tokenize", &json!({ "prompt": "aé<|im_end|>" })).await;
    assert_eq!(tokens["tokens"], json!([97, 195, 169, 257]));
    let (_, tokens) = bench.ask("/tokenize", &crate::bench::chat_body()).await;
    assert_eq!(tokens["count"], 21);
    let (_, text) = bench.ask("/detokenize", &json!({ "tokens": [97, 195, 169] })).await;
    assert_eq!(text["prompt"], "aé");
    let (status, _) = bench.ask("/detokenize", &json!({ "tokens": [9999] })).await;
    assert_eq!(status, 400);
}

#[testbed::test]
async fn a_model_answers_to_its_names() {
    let bench = Bench::start().await;
    assert_eq!(bench.chat(json!({ "model": "bytes-alias" })).await.0, 200);
    assert_eq!(bench.chat(json!({ "model": null })).await.0, 200);
}

#[testbed::test]
async fn metrics_count_what_was_answered() {
    let bench = Bench::start().await;
    bench.backend.then(Plan::says("Hello")).then(Plan::cut("x"));
    bench.chat(json!({})).await;
    bench.complete(json!({})).await;
    bench.complete(json!({ "n": 0 })).await;
    let (status, text) = bench.get("/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "vllm:prompt_tokens_total{model_name=\"bytes\"} 23",
        "vllm:generation_tokens_total{model_name=\"bytes\"} 7",
        "vllm:time_to_first_token_seconds_count{model_name=\"bytes\"} 2",
        "vllm:inter_token_latency_seconds_count{model_name=\"bytes\"} 5",
        "vllm:e2e_request_latency_seconds_count{model_name=\"bytes\"} 3",
        "vllm:num_requests_running{model_name=\"bytes\"} 0",
        "vllm:request_success_total{finished_reason=\"stop\",model_name=\"bytes\"} 1",
        "vllm:request_success_total{finished_reason=\"length\",model_name=\"bytes\"} 1",
        "tandem_gateway_responses_total{endpoint=\"/v1/completions\",status=\"400\",model_name=\"bytes\"} 1",
    ] {
        let (name, rest) = line.split_once('{').unwrap();
        let (labels, value) = rest.split_once('}').unwrap();
        // Labels have no order.
        let is_shown = text.lines().any(|shown| {
            shown.starts_with(&format!("{name}{{"))
                && shown.ends_with(value)
                && labels.split(',').all(|label| shown.contains(label))
        });
        assert!(is_shown, "{line} is not in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}
