//! A fleet of simulated engines: no model, the same processes, the same answers on every worker.

use std::time::Duration;

use serde_json::{Value, json};
use testbed::wait_for;

use crate::fleet::{assert_at_rest, status, workers};
use crate::harness::{System, block_on, turn};
use crate::http::{ask, get, post};

const REST_LIMIT: Duration = Duration::from_secs(20);

/// Returns a text of two hundred words that differs by number.
fn long_prompt(number: usize) -> String {
    (0..200).map(|at| ["one", "two", "three", "four"][(at * at + number + at / 7) % 4]).fold(
        format!("{number}"),
        |mut text, word| {
            text.push(' ');
            text += word;
            text
        },
    )
}

fn body(prompt: &str) -> Value {
    json!({ "prompt": prompt, "max_tokens": 40, "temperature": 0, "ignore_eos": true })
}

fn text(system: &System, prompt: &str) -> String {
    let answer = block_on(ask(&system.base, "/v1/completions", &body(prompt)));
    assert_eq!(answer["usage"]["completion_tokens"], 40, "{answer:#}");
    answer["choices"][0]["text"].as_str().expect("text").to_owned()
}

#[testbed::test]
fn blocks_that_travel_do_not_change_an_answer() {
    let _turn = turn();
    let split = ["--prefill", "2", "--decode", "2"];
    let split = System::simulated(&split);
    let never = ["--set", "gateway.disaggregate=never"];
    let whole = System::simulated(&never);
    for number in 0..4 {
        let prompt = long_prompt(number);
        let expected = text(&whole, &prompt);
        assert!(expected.split(' ').count() > 20, "words: {expected:?}");
        for again in 0..3 {
            assert_eq!(text(&split, &prompt), expected, "prompt {number}, time {again}");
        }
    }
    for system in [&split, &whole] {
        assert_at_rest(system, REST_LIMIT);
    }
}

/// Checks that the gateway's page shows all workers by role, and the store.
fn assert_page_shows(system: &System, roles: &[(&str, u64)]) {
    wait_for(REST_LIMIT, || {
        let answer = block_on(get(&format!("{}/fleet", system.base)));
        let (status, text) = answer.ok_or("connection refused")?;
        let fleet: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let mut roles = roles.iter();
        let is_complete = roles.all(|(role, count)| fleet["roles"][role]["ready"] == *count);
        if status == 200 && is_complete && fleet["store"]["caught_up"] == true {
            Ok(())
        } else {
            Err(format!("{status}: {fleet:#}"))
        }
    });
}

#[testbed::test]
fn forty_workers_start_and_serve() {
    let _turn = turn();
    let system = System::simulated(&["--prefill", "20", "--decode", "20"]);
    let status = status(&system.nats_url).expect("an answer");
    assert_eq!(workers(&status).len(), 40, "{status:#}");
    assert!(workers(&status).iter().all(|worker| worker["model"] == "simulated"), "{status:#}");
    assert_page_shows(&system, &["prefill", "decode"].map(|role| (role, 20)));
    block_on(async {
        let asked = (0..40).map(|number| {
            let base = system.base.clone();
            async move { post(&base, "/v1/completions", &body(&long_prompt(number))).await }
        });
        for (status, answer) in futures::future::join_all(asked).await {
            assert_eq!(status, 200, "{answer:#}");
        }
    });
    assert_at_rest(&system, REST_LIMIT);
}
