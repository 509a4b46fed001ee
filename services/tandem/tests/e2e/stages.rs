//! A client that asks learns where its request's time went, and it adds up.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{System, TO_FIRST_TOKEN, block_on, turn};
use crate::processes::service_below;

const SLOW: [&str; 4] =
    ["--set", "simulated.prefill_us_per_token=400", "--set", "simulated.decode_us_per_step=4000"];

fn words(count: usize, salt: usize) -> String {
    let words = (0..count).map(|at| ["one", "two", "three", "four"][(at * at + salt + at / 7) % 4]);
    words.collect::<Vec<_>>().join(" ")
}

struct Timed {
    timings: Value,
    usage: Value,
    server_timing: Option<String>,
}

async fn ask(base: &str, path: &str, mut body: Value, over: Value) -> Timed {
    for (key, value) in over.as_object().expect("an object") {
        body[key] = value.clone();
    }
    let request = testbed::http()
        .build()
        .expect("an HTTP client")
        .post(format!("{base}{path}"))
        .header("x-tandem-timings", "stages")
        .timeout(Duration::from_secs(60))
        .json(&body);
    let response = request.send().await.expect("an answer");
    assert_eq!(response.status(), 200);
    let header = response.headers().get("server-timing");
    let server_timing = header.map(|value| value.to_str().expect("text").to_owned());
    let text = response.text().await.expect("a body");
    let data: Vec<&str> = text.split("\n\n").filter_map(|it| it.strip_prefix("data: ")).collect();
    let answer: Value = match data[..] {
        [.., last, "[DONE]"] => {
            let timed = data.iter().filter(|event| event.contains("\"timings\"")).count();
            assert_eq!(timed, 1, "only the last chunk has timings: {text}");
            serde_json::from_str(last).expect("JSON")
        }
        _ => serde_json::from_str(&text).expect("JSON"),
    };
    let (timings, usage) = (answer["timings"].clone(), answer["usage"].clone());
    assert!(timings.is_object(), "{answer:#}");
    Timed { timings, usage, server_timing }
}

fn stages(timings: &Value) -> Vec<(String, f64, f64)> {
    let stages = timings["stages"].as_array().expect("stages");
    let stage = |stage: &Value| {
        let number = |key: &str| stage[key].as_f64().expect("a number");
        let name = stage["name"].as_str().expect("a name").to_owned();
        (name, number("start_ms"), number("duration_ms"))
    };
    stages.iter().map(stage).collect()
}

/// Those on the way to the first token follow one another and sum to the TTFT within 2 %.
fn check_sum(timings: &Value, lost: usize) {
    let ttft_ms = timings["ttft_ms"].as_f64().expect("a number");
    let mut stages = stages(timings);
    stages.retain(|(name, start, _)| {
        let known = TO_FIRST_TOKEN.contains(&name.as_str()) || name == "lost_attempt";
        known && *start <= ttft_ms
    });
    for name in TO_FIRST_TOKEN {
        assert!(stages.iter().any(|(stage, ..)| stage == name), "{name}: {timings:#}");
    }
    let lost_here = stages.iter().filter(|(name, ..)| name == "lost_attempt").count();
    assert_eq!(lost_here, lost, "{timings:#}");
    let sum_ms: f64 = stages.iter().map(|(.., duration)| duration).sum();
    println!("TTFT {ttft_ms:.3} ms, stages {sum_ms:.3} ms");
    assert!((sum_ms - ttft_ms).abs() <= 0.02 * ttft_ms, "{sum_ms} of {ttft_ms} ms: {timings:#}");
    for pair in stages.windows(2) {
        let gap_ms = pair[1].1 - (pair[0].1 + pair[0].2);
        assert!(gap_ms.abs() <= 0.02 * ttft_ms, "{} to {}: {timings:#}", pair[0].0, pair[1].0);
    }
}

#[testbed::test]
fn stages_sum_to_the_ttft_streaming_and_whole_and_with_a_stored_prefix() {
    let _turn = turn();
    let system = System::simulated(&SLOW);
    let chat = "/v1/chat/completions";
    let message = json!([{ "role": "user", "content": words(100, 0) }]);
    let body = json!({ "messages": message, "max_tokens": 20, "ignore_eos": true });
    block_on(async {
        let stream = json!({ "stream": true });
        let first = ask(&system.base, chat, body.clone(), stream.clone()).await;
        check_sum(&first.timings, 0);
        let all = stages(&first.timings);
        for name in
            ["decode.queue", "decode.kv_pull", "decode.first_step", "decode.generate", "stream"]
        {
            assert!(all.iter().any(|(stage, ..)| stage == name), "{name}: {:#}", first.timings);
        }
        let generate =
            all.iter().find(|(name, ..)| name == "decode.generate").expect("it is there");
        assert!(generate.2 >= 18.0 * 4.0, "eighteen steps of 4 ms: {:#}", first.timings);
        let compute = &first.timings["stages"]
            .as_array()
            .expect("stages")
            .iter()
            .find(|stage| stage["name"] == "prefill.compute")
            .expect("it is there")["worker"];
        assert!(compute.as_str().is_some_and(|worker| worker.contains("prefill")), "{compute}");

        let usage = json!({ "stream": true, "stream_options": { "include_usage": true } });
        let again = ask(&system.base, chat, body.clone(), usage).await;
        check_sum(&again.timings, 0);
        let cached = again.usage["prompt_tokens_details"]["cached_tokens"].as_u64();
        assert!(cached.is_some_and(|cached| cached >= 16), "{:#}", again.usage);

        let whole = json!({ "prompt": words(120, 1), "max_tokens": 5, "ignore_eos": true });
        let answer = ask(&system.base, "/v1/completions", whole, json!({})).await;
        check_sum(&answer.timings, 0);
        let header = answer.server_timing.expect("Server-Timing");
        assert!(
            header.starts_with("tokenize;dur=") && header.contains("prefill.compute;dur="),
            "{header}"
        );

        // The first token is the last, and goes out in one write with the account of it.
        let one = json!({ "max_tokens": 1, "stream": true });
        check_sum(&ask(&system.base, chat, body.clone(), one).await.timings, 0);

        let several = json!({ "n": 3, "stream": true });
        check_sum(&ask(&system.base, chat, body.clone(), several).await.timings, 0);
    });
}

#[testbed::test]
fn a_lost_attempt_is_a_stage_and_the_sum_holds() {
    let _turn = turn();
    let system = System::simulated(&SLOW);
    let body = json!({ "prompt": words(3000, 2), "max_tokens": 8, "ignore_eos": true });
    let victim = service_below(system.pid(), "prefill").expect("it runs");
    let answer = block_on(async {
        let asking = ask(&system.base, "/v1/completions", body, json!({ "stream": true }));
        tokio::pin!(asking);
        let early = tokio::time::timeout(Duration::from_millis(500), &mut asking).await;
        assert!(early.is_err(), "the prompt was too short to kill anybody in the midst of it");
        victim.kill();
        asking.await
    });
    check_sum(&answer.timings, 1);
    let mut stages = answer.timings["stages"].as_array().expect("stages").iter();
    let retried = stages.any(|stage| stage["name"] == "prefill.compute" && stage["attempt"] == 1);
    assert!(retried, "{:#}", answer.timings);
}

#[testbed::test]
fn a_client_that_does_not_ask_gets_no_timings() {
    let _turn = turn();
    let system = System::simulated(&[]);
    let body = json!({ "prompt": "one two", "max_tokens": 2, "ignore_eos": true });
    block_on(async {
        let answer = crate::http::ask(&system.base, "/v1/completions", &body).await;
        assert_eq!(answer.get("timings"), None, "{answer:#}");
        let asked = testbed::http()
            .build()
            .expect("an HTTP client")
            .post(format!("{}/v1/completions", system.base))
            .header("x-tandem-timings", "everything")
            .json(&body);
        let refused = asked.send().await.expect("an answer");
        assert_eq!(refused.status(), 400);
        let refused: Value = refused.json().await.expect("JSON");
        assert_eq!(refused["error"]["param"], "x-tandem-timings", "{refused:#}");
    });
}
