//! Parameters: what reaches the workers, what is refused and by which name, what is ignored.

use chassis::Tracer;
use proptest::prelude::*;
use protocol::Sampling;
use serde_json::{Value, json};

use crate::bench::{Bench, bytes_model, chat_body, limits, merged};

#[testbed::test]
async fn parameters_reach_the_workers() {
    let bench = Bench::start().await;
    let body = json!({
        "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.25, "seed": -1,
        "presence_penalty": 1.5, "frequency_penalty": -0.5, "repetition_penalty": 1.25,
        "logit_bias": { "65": 100, "66": -1.5 }, "min_tokens": 2, "max_tokens": 7,
        "stop_token_ids": [10], "logprobs": true, "top_logprobs": 3, "user": "someone",
    });
    assert_eq!(bench.chat(body).await.0, 200);
    let generation = bench.backend.generations().remove(0);
    let sampling = &generation.sampling;
    assert_eq!((sampling.temperature, sampling.top_p, sampling.top_k), (0.5, 0.9, 40));
    assert_eq!((sampling.min_p, sampling.seed), (0.25, u64::MAX));
    assert_eq!((sampling.presence_penalty, sampling.frequency_penalty), (1.5, -0.5));
    assert_eq!(sampling.repetition_penalty, 1.25);
    assert_eq!(sampling.logit_bias, [(65, 100.0), (66, -1.5)]);
    let stopping = &generation.stopping;
    assert_eq!((stopping.min_tokens, stopping.max_tokens), (2, 7));
    assert_eq!(stopping.stop_tokens, [10, 257]);
    assert_eq!((generation.top_logprobs, generation.prompt_logprobs), (Some(3), None));
}

#[testbed::test]
async fn a_request_that_sets_nothing_samples_as_the_model_recommends() {
    let recommended = Sampling {
        temperature: 0.2,
        top_p: 0.8,
        top_k: 20,
        min_p: 0.1,
        repetition_penalty: 1.1,
        ..Sampling::default()
    };
    let text = bytes_model(recommended.clone());
    let bench = Bench::serving(text, limits(), Tracer::off()).await;
    bench.chat(json!({})).await;
    bench.complete(json!({ "temperature": null })).await;
    let own = json!({
        "temperature": 1, "top_p": 1, "top_k": -1, "min_p": 0, "repetition_penalty": 1,
    });
    bench.chat(own).await;
    bench.chat(json!({ "temperature": 0 })).await;
    let sampled: Vec<Sampling> = bench
        .backend
        .generations()
        .into_iter()
        .map(|generation| Sampling { seed: 0, ..generation.sampling })
        .collect();
    let greedy = Sampling { temperature: 0.0, ..recommended.clone() };
    assert_eq!(sampled, [recommended.clone(), recommended, Sampling::default(), greedy]);
    let (_, models) = bench.get("/v1/models").await;
    let models: Value = serde_json::from_str(&models).unwrap();
    let shown = &models["data"][0]["default_sampling_params"];
    assert_eq!(shown["top_k"], 20, "{shown}");
}

#[testbed::test]
async fn a_cache_salt_narrows_the_scope() {
    let bench = Bench::start().await;
    bench.chat(json!({})).await;
    bench.chat(json!({ "cache_salt": "mine" })).await;
    let generations = bench.backend.generations();
    assert_eq!(generations[0].scope, protocol::Scope::shared());
    assert_ne!(generations[0].scope, generations[1].scope);
}

#[testbed::test]
async fn messages_become_the_templates_text() {
    let bench = Bench::start().await;
    let messages = json!([
        { "role": "developer", "content": "D" },
        { "role": "user", "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }] },
        { "role": "assistant", "content": null },
        { "role": "tool", "content": "4", "tool_call_id": "c1" },
    ]);
    let body = json!({ "messages": messages, "add_generation_prompt": false });
    let (_, tokens) = bench.ask("/tokenize", &body).await;
    let (_, text) = bench.ask("/detokenize", &json!({ "tokens": tokens["tokens"] })).await;
    let expected = "<|im_start|>system\nD<|im_end|>\n<|im_start|>user\na\nb<|im_end|>\n\
                    <|im_start|>assistant\n<|im_end|>\n<|im_start|>tool\n4<|im_end|>\n";
    assert_eq!(text["prompt"], expected);
}

/// Bodies that are wrong, each with the name of what is wrong in it.
fn wrong_chats() -> Vec<(Value, &'static str)> {
    vec![
        (json!({ "messages": null }), "messages"),
        (json!({ "messages": [] }), "messages"),
        (json!({ "messages": "hi" }), "messages"),
        (json!({ "messages": ["hi"] }), "messages[0]"),
        (json!({ "messages": [{ "content": "x" }] }), "messages[0].role"),
        (json!({ "messages": [{ "role": "king", "content": "x" }] }), "messages[0].role"),
        (json!({ "messages": [{ "role": "user" }] }), "messages[0].content"),
        (json!({ "messages": [{ "role": "user", "content": 5 }] }), "messages[0].content"),
        (
            json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url" }] }] }),
            "messages[0].content[0]",
        ),
        (
            json!({ "messages": [{ "role": "user", "content": [{ "type": "text" }] }] }),
            "messages[0].content[0].text",
        ),
        (
            json!({ "messages": [{ "role": "assistant", "tool_calls": [{}] }] }),
            "messages[0].tool_calls",
        ),
        (json!({ "messages": [{ "role": "user", "content": "refuse me" }] }), "messages"),
        (json!({ "top_logprobs": 2 }), "top_logprobs"),
        (json!({ "logprobs": true, "top_logprobs": 21 }), "top_logprobs"),
        (json!({ "logprobs": 3 }), "logprobs"),
        (json!({ "max_tokens": 0 }), "max_tokens"),
        (json!({ "chat_template_kwargs": { "a": "x".repeat(5000) } }), "chat_template_kwargs"),
        (json!({ "model": 5 }), "model"),
    ]
}

fn wrong_completions() -> Vec<(Value, &'static str)> {
    vec![
        (json!({ "prompt": null }), "prompt"),
        (json!({ "prompt": "" }), "prompt"),
        (json!({ "prompt": [] }), "prompt"),
        (json!({ "prompt": [[]] }), "prompt"),
        (json!({ "prompt": [1, 258] }), "prompt"),
        (json!({ "prompt": [1, -1] }), "prompt"),
        (json!({ "prompt": [1, "a"] }), "prompt"),
        (json!({ "prompt": vec!["a"; 9] }), "prompt"),
        (json!({ "prompt": ["a", "b"], "n": 5 }), "n"),
        (json!({ "max_tokens": 0 }), "max_tokens"),
        (json!({ "max_tokens": -1 }), "max_tokens"),
        (json!({ "max_tokens": 1.5 }), "max_tokens"),
        (json!({ "max_tokens": "9" }), "max_tokens"),
        (json!({ "min_tokens": 9, "max_tokens": 8 }), "min_tokens"),
        (json!({ "logprobs": true }), "logprobs"),
        (json!({ "logprobs": 21 }), "logprobs"),
        (json!({ "best_of": 3 }), "best_of"),
        (json!({ "n": 0 }), "n"),
        (json!({ "n": 9 }), "n"),
        (json!({ "temperature": -0.1 }), "temperature"),
        (json!({ "temperature": 2.1 }), "temperature"),
        (json!({ "temperature": "hot" }), "temperature"),
        (json!({ "top_p": 0 }), "top_p"),
        (json!({ "top_p": 1.1 }), "top_p"),
        (json!({ "top_k": -2 }), "top_k"),
        (json!({ "min_p": 2 }), "min_p"),
        (json!({ "presence_penalty": 3 }), "presence_penalty"),
        (json!({ "frequency_penalty": -3 }), "frequency_penalty"),
        (json!({ "repetition_penalty": 0 }), "repetition_penalty"),
        (json!({ "seed": 1.5 }), "seed"),
        (json!({ "stop": ["a", "b", "c", "d", "e"] }), "stop"),
        (json!({ "stop": "" }), "stop"),
        (json!({ "stop": [5] }), "stop"),
        (json!({ "stop": "x".repeat(513) }), "stop"),
        (json!({ "stop_token_ids": [258] }), "stop_token_ids"),
        (json!({ "logit_bias": { "258": 1 } }), "logit_bias"),
        (json!({ "logit_bias": { "x": 1 } }), "logit_bias"),
        (json!({ "logit_bias": { "1": 101 } }), "logit_bias"),
        (json!({ "logit_bias": [1] }), "logit_bias"),
        (json!({ "stream": "yes" }), "stream"),
        (json!({ "stream_options": { "include_usage": true } }), "stream_options"),
        (json!({ "echo": 1 }), "echo"),
        (json!({ "ignore_eos": "no" }), "ignore_eos"),
        (json!({ "cache_salt": "x".repeat(257) }), "cache_salt"),
    ]
}

#[testbed::test]
async fn what_is_wrong_is_named_and_nothing_is_started() {
    let bench = Bench::start().await;
    for (body, param) in wrong_chats() {
        let (status, answer) = bench.chat(body.clone()).await;
        assert_eq!((status, &answer["error"]["param"]), (400, &json!(param)), "{body}: {answer}");
    }
    for (body, param) in wrong_completions() {
        let (status, answer) = bench.complete(body.clone()).await;
        assert_eq!((status, &answer["error"]["param"]), (400, &json!(param)), "{body}: {answer}");
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains(param), "{message}");
    }
    assert!(bench.backend.generations().is_empty());
}

#[testbed::test]
async fn what_is_not_supported_is_refused_by_name() {
    let bench = Bench::start().await;
    for (field, value) in [
        ("tools", json!([{ "type": "function" }])),
        ("tool_choice", json!("auto")),
        ("tool_choice", json!({ "type": "function" })),
        ("functions", json!([{}])),
        ("function_call", json!("auto")),
        ("response_format", json!({ "type": "json_object" })),
        ("response_format", json!({ "type": "json_schema" })),
        ("suffix", json!("end")),
        ("audio", json!({ "voice": "x" })),
        ("modalities", json!(["text", "audio"])),
        ("prediction", json!({})),
        ("web_search_options", json!({})),
        ("guided_json", json!({})),
        ("structured_outputs", json!({ "regex": "a" })),
        ("prompt_logprobs", json!(1)),
        ("use_beam_search", json!(true)),
        ("chat_template", json!("x")),
        ("allowed_token_ids", json!([1])),
        ("return_token_ids", json!(true)),
    ] {
        let body = json!({ field: value });
        let (status, answer) = bench.chat(body.clone()).await;
        assert_eq!((status, &answer["error"]["param"]), (400, &json!(field)), "{body}: {answer}");
    }
    assert!(bench.backend.generations().is_empty());
}

#[testbed::test]
async fn what_asks_for_nothing_or_is_unknown_is_ignored() {
    let bench = Bench::start().await;
    let body = json!({
        "tools": [], "tool_choice": "none", "functions": null, "response_format": { "type": "text" },
        "modalities": ["text"], "suffix": null, "best_of": 1, "use_beam_search": false,
        "temperature": null, "max_tokens": null, "stop": null, "logit_bias": {}, "n": 1.0,
        "stream_options": null, "metadata": { "a": "b" }, "store": false, "no_such_field": [1],
    });
    assert_eq!(bench.chat(body.clone()).await.0, 200);
    assert_eq!(bench.complete(body).await.0, 200);
}

#[testbed::test]
async fn a_body_that_is_no_json_object_is_400() {
    let bench = Bench::start().await;
    let deep = "[".repeat(10_000);
    for body in ["", "{", "[]", "null", "\u{0}", "{\"prompt\": \"\\ud800\"}", deep.as_str()] {
        let request =
            bench.http.post(format!("{}/v1/completions", bench.url)).body(body.to_owned());
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 400, "{body:.20}");
        let error: Value = response.json().await.unwrap();
        assert!(error["error"]["message"].as_str().unwrap().starts_with("body is"), "{error}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-3i64..30).prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        Just(Value::from("text")),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        let key = prop_oneof![
            "[a-z]{1,4}",
            Just("role".to_owned()),
            Just("content".to_owned()),
            Just("type".to_owned())
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..4)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

const FIELDS: [&str; 34] = [
    "model",
    "messages",
    "prompt",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "n",
    "best_of",
    "logprobs",
    "top_logprobs",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "echo",
    "ignore_eos",
    "stream",
    "stream_options",
    "min_tokens",
    "stop_token_ids",
    "include_stop_str_in_output",
    "skip_special_tokens",
    "add_generation_prompt",
    "cache_salt",
    "tools",
    "response_format",
    "chat_template_kwargs",
    "add_special_tokens",
    "user",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[testbed::test]
    fn no_request_is_a_servers_error(
        bodies in prop::collection::vec(
            prop::collection::vec((prop::sample::select(&FIELDS[..]), any_json()), 0..5), 16),
    ) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let outcome: Result<(), TestCaseError> = runtime.block_on(async {
            let bench = Bench::start().await;
            for fields in bodies {
                let fields: serde_json::Map<String, Value> =
                    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
                let body = merged(merged(chat_body(), json!({ "prompt": "Hi" })), fields.into());
                for path in ["/v1/chat/completions", "/v1/completions", "/tokenize"] {
                    let response = bench.post(path, &body).send().await.unwrap();
                    let status = response.status().as_u16();
                    prop_assert!(matches!(status, 200 | 400 | 404), "{} {}: {}", status, path, body);
                    let text = response.text().await.unwrap();
                    prop_assert!(!text.contains("\"error\"") || status != 200, "{}: {}", body, text);
                }
            }
            Ok(())
        });
        outcome?;
    }
}
