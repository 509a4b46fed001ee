//! Answers: the right tokens, the same ones in any batch, reused prefixes.

use std::time::Duration;

use serde_json::{Value, json};
use testbed::Extent;

use crate::fleet::assert_at_rest;
use crate::harness::{System, block_on, shared, turn, workspace_file};
use crate::http::{Stream, ask, get, post, text_of};

/// The margin below which the reference itself is undecided between two tokens.
const UNDECIDED: f64 = 0.05;
/// The margin below which activations in 8 bits may choose another token.
const UNCLEAR: f64 = 1.0;
const REST_LIMIT: Duration = Duration::from_secs(20);

fn chat(message: &str, max_tokens: u32) -> Value {
    json!({
        "messages": [{ "role": "user", "content": message }],
        "temperature": 0,
        "max_tokens": max_tokens,
    })
}

#[testbed::test]
fn it_is_ready_and_says_what_it_serves() {
    let _turn = turn();
    let (system, _) = shared();
    let (status, body) = block_on(get(&format!("{}/ready", system.base))).expect("it listens");
    assert_eq!(status, 200, "{body}");
    let (_, models) = block_on(get(&format!("{}/v1/models", system.base))).expect("it listens");
    let models: Value = serde_json::from_str(&models).expect("JSON");
    assert!(models["data"][0]["max_model_len"].as_u64().expect("a number") > 0, "{models:#}");
}

#[testbed::test]
fn a_streamed_answer_is_the_whole_one_in_pieces() {
    let _turn = turn();
    let (system, _) = shared();
    let body = chat("Write one sentence about a lighthouse.", 24);
    let whole = block_on(ask(&system.base, "/v1/chat/completions", &body));
    let text = whole["choices"][0]["message"]["content"].as_str().expect("text");
    assert!(text.starts_with("The lighthouse"), "{text:?}");
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
    assert_eq!(whole["usage"]["completion_tokens"], 24);

    let events = block_on(async {
        Stream::open(&system.base, "/v1/chat/completions", &body).await.rest().await
    });
    assert_eq!(text_of(&events), text);
    assert!(events.len() > 3, "the answer arrived at once: {events:#?}");
}

#[testbed::test]
fn greedy_text_over_http_is_the_reference() {
    let _turn = turn();
    let system = System::start(&["--device", "reference"], &[]);
    // Every fourth case has both kinds of requests, and not the long prompt.
    let (every, compared_min) = Extent::from_env().pick((4, 50), (1, 150));
    let compared = compare_greedy(&system, UNDECIDED, every);
    assert!(compared > compared_min, "only {compared} tokens could be compared");
}

#[testbed::test]
fn greedy_text_in_8_bits_is_the_reference_where_that_is_clear() {
    let _turn = turn();
    let (system, _) = shared();
    let compared = compare_greedy(system, UNCLEAR, 1);
    assert!(compared > 40, "only {compared} tokens could be compared");
}

/// Compares greedy answers with `every` nth golden continuation, up to the first choice whose margin
/// is below `least`; returns the number of tokens.
fn compare_greedy(system: &System, least: f64, every: usize) -> usize {
    let model = testbed::smollm2();
    let file = modelfile::ModelFile::open(&model).expect("the model opens");
    let tokenizer = file.tokenizer().expect("it has a tokenizer");
    let golden = workspace_file("shared/model/tests/data/smollm2-135m-q4_1.json");
    let golden: Value =
        serde_json::from_slice(&std::fs::read(golden).expect("readable")).expect("JSON");
    let mut compared = 0;
    for case in golden["cases"].as_array().expect("cases").iter().step_by(every) {
        let ids: Vec<u32> = numbers(&case["greedy_ids"]);
        let clear = case["steps"]
            .as_array()
            .expect("steps")
            .iter()
            .take_while(|step| step["margin"].as_f64().expect("a number") > least)
            .count()
            .min(ids.len());
        let (path, mut body) = match &case["prompt"] {
            Value::String(text) => ("/v1/completions", json!({ "prompt": text })),
            messages => ("/v1/chat/completions", json!({ "messages": messages })),
        };
        body["temperature"] = 0.into();
        body["max_tokens"] = ids.len().into();
        let answer = block_on(ask(&system.base, path, &body));
        let choice = &answer["choices"][0];
        let text = choice["text"].as_str().or(choice["message"]["content"].as_str());
        let text = text.expect("text");
        let name = &case["name"];
        let expected = tokenizer.decode(&ids[..clear], true);
        // An unfinished character at the cut shows as a replacement on this side only.
        let expected = expected.trim_end_matches('\u{fffd}');
        assert!(text.starts_with(expected), "{name}: {text:?}, expected {expected:?}");
        let prompt_tokens = numbers(&case["prompt_ids"]).len();
        assert_eq!(answer["usage"]["prompt_tokens"], prompt_tokens, "{name}");
        compared += clear;
    }
    println!("golden over HTTP: {compared} greedy tokens equal");
    compared
}

fn numbers(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).expect("numbers")
}

/// Returns tokens that no other case uses, so that none of their blocks are stored.
fn fresh_prompt(salt: u32, length: u32) -> Vec<u32> {
    (0..length).map(|place| 1000 + (place * 7919 + salt * 104_729) % 39_000).collect()
}

fn scored(prompt: &[u32], max_tokens: u32) -> Value {
    json!({ "prompt": prompt, "temperature": 0, "max_tokens": max_tokens,
            "ignore_eos": true })
}

#[testbed::test]
fn a_prompt_seen_before_is_not_computed_again() {
    let _turn = turn();
    let (system, _) = shared();
    let prompt = fresh_prompt(1, 500);
    let first = block_on(ask(&system.base, "/v1/completions", &scored(&prompt, 6)));
    let cached = |answer: &Value| {
        answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a number")
    };
    assert_eq!(first["usage"]["prompt_tokens"], 500);
    assert_eq!(cached(&first), 0, "{first:#}");
    let second = block_on(ask(&system.base, "/v1/completions", &scored(&prompt, 6)));
    assert!(cached(&second) >= 500 - 16, "{second:#}");
    assert_eq!(second["choices"][0]["text"], first["choices"][0]["text"]);

    // Half of it is the same: half of it is reused.
    let mut other = prompt.clone();
    other[250..].copy_from_slice(&fresh_prompt(2, 250));
    let third = block_on(ask(&system.base, "/v1/completions", &scored(&other, 6)));
    assert_eq!(cached(&third), 250 / 16 * 16, "{third:#}");
    assert_at_rest(system, REST_LIMIT);
}

#[testbed::test]
fn sixteen_streams_at_once_give_what_each_gives_alone() {
    let _turn = turn();
    let (system, _) = shared();
    let bodies: Vec<Value> = (0..16)
        .map(|index| {
            let mut body = scored(&fresh_prompt(100 + index, 20 + 5 * index), 16);
            if index % 2 == 1 {
                body["temperature"] = 0.8.into();
                body["seed"] = (index + 1).into();
            }
            body
        })
        .collect();
    let text = async |body: &Value| {
        let stream = Stream::open(&system.base, "/v1/completions", body).await;
        text_of(&stream.rest().await)
    };
    block_on(async {
        let together = futures::future::join_all(bodies.iter().map(text)).await;
        for (body, together) in bodies.iter().zip(together) {
            let alone = text(body).await;
            assert!(!alone.is_empty());
            assert_eq!(together, alone, "{body}");
        }
    });
    assert_at_rest(system, REST_LIMIT);
}

#[testbed::test]
fn a_prompt_longer_than_the_context_is_refused_with_both_numbers() {
    let _turn = turn();
    let (system, _) = shared();
    let body = scored(&fresh_prompt(3, 9000), 1);
    let (status, answer) = block_on(post(&system.base, "/v1/completions", &body));
    assert_eq!(status, 400, "{answer:#}");
    let message = answer["error"]["message"].as_str().expect("a message");
    assert!(message.contains("9000") && message.contains("8192"), "{message}");
}

#[testbed::test]
fn one_worker_alone_gives_what_two_give_together() {
    let _turn = turn();
    let (apart, _) = shared();
    let alone = System::start(&["--set", "gateway.disaggregate=never"], &[]);
    for (salt, length) in [(200, 1), (201, 16), (202, 47), (203, 300)] {
        let mut body = scored(&fresh_prompt(salt, length), 20);
        for seed in [None, Some(7)] {
            if let Some(seed) = seed {
                body["temperature"] = 0.9.into();
                body["seed"] = seed.into();
            }
            let texts = [apart, &alone].map(|system| {
                let answer = block_on(ask(&system.base, "/v1/completions", &body));
                answer["choices"][0]["text"].clone()
            });
            assert_eq!(texts[0], texts[1], "{body}");
        }
    }
}
