//! Errors: envelope, status, headers.

use std::time::Duration;

use protocol::ErrorClass;
use serde_json::{Value, json};
use testbed::eventually;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::bench::{Bench, Plan, chat_body, completion_body, limits, merged};

#[testbed::test]
async fn each_class_of_refusal_has_its_status() {
    let bench = Bench::start().await;
    for (class, status, kind) in [
        (ErrorClass::Invalid, 400, "BadRequestError"),
        (ErrorClass::Overloaded, 429, "TooManyRequestsError"),
        (ErrorClass::Retry, 503, "ServiceUnavailableError"),
        (ErrorClass::Deadline, 504, "GatewayTimeoutError"),
        (ErrorClass::Cancelled, 499, "ClientClosedRequestError"),
        (ErrorClass::Internal, 500, "InternalServerError"),
    ] {
        bench.backend.then(Plan::refused(class));
        let response = bench.post("/v1/chat/completions", &chat_body()).send().await.unwrap();
        assert_eq!(response.status(), status);
        let retries =
            response.headers().get("retry-after").map(|it| it.to_str().unwrap().to_owned());
        assert_eq!(retries.as_deref(), matches!(status, 429 | 503).then_some("3"));
        let error: Value = response.json().await.unwrap();
        let expected = json!({ "error": {
            "message": "no room", "type": kind, "param": null, "code": status,
        }});
        assert_eq!(error, expected);
    }
}

#[testbed::test]
async fn one_refused_choice_refuses_the_request() {
    let bench = Bench::start().await;
    bench.backend.then(Plan::hangs_after("a")).then(Plan::refused(ErrorClass::Overloaded));
    let (status, _) = bench.chat(json!({ "n": 2 })).await;
    assert_eq!(status, 429);
    assert_eq!(bench.backend.given_up(), [crate::bench::GivenUp::Dropped]);
}

#[testbed::test]
async fn a_prompt_longer_than_the_context_is_refused_with_both_numbers() {
    let bench = Bench::start().await;
    let long = json!({ "messages": [{ "role": "user", "content": "x".repeat(300) }] });
    for (answer, tokens) in [
        (bench.chat(long).await, "319"),
        (bench.complete(json!({ "prompt": "x".repeat(300) })).await, "300"),
        (bench.complete(json!({ "prompt": "x".repeat(256) })).await, "256"),
    ] {
        let (status, answer) = answer;
        let message = answer["error"]["message"].as_str().unwrap();
        assert_eq!(status, 400, "{message}");
        assert!(message.contains("256 tokens") && message.contains(tokens), "{message}");
    }
    assert!(bench.backend.generations().is_empty());
}

#[testbed::test]
async fn more_output_than_the_context_leaves_is_refused() {
    let bench = Bench::start().await;
    let (status, answer) = bench.complete(json!({ "max_tokens": 255 })).await;
    assert_eq!((status, &answer["error"]["param"]), (400, &json!("max_tokens")));
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(["256", "255", "2 prompt"].iter().all(|it| message.contains(it)), "{message}");
    assert_eq!(bench.complete(json!({ "max_tokens": 254 })).await.0, 200);
}

#[testbed::test]
async fn an_unknown_model_is_not_found() {
    let bench = Bench::start().await;
    let (status, answer) = bench.chat(json!({ "model": "gpt-4" })).await;
    assert_eq!((status, &answer["error"]["type"]), (404, &json!("NotFoundError")));
    assert_eq!(answer["error"]["param"], "model");
}

#[testbed::test]
async fn paths_and_methods_that_do_not_exist_have_the_envelope_too() {
    let bench = Bench::start().await;
    let (status, text) = bench.get("/v2/nothing").await;
    let error: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &error["error"]["code"]), (404, &json!(404)));
    let (status, text) = bench.get("/v1/chat/completions").await;
    let error: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &error["error"]["type"]), (405, &json!("MethodNotAllowedError")));
}

#[testbed::test]
async fn a_body_that_is_too_long_is_413() {
    let bench = Bench::start().await;
    let body = json!({ "prompt": "x".repeat(100 << 10) });
    let (status, answer) = bench.ask("/v1/completions", &body).await;
    assert_eq!((status, &answer["error"]["type"]), (413, &json!("PayloadTooLargeError")));
}

#[testbed::test]
async fn a_body_that_does_not_come_is_408() {
    let limits = gateway::Limits { body_timeout: Duration::from_millis(30), ..limits() };
    let bench = Bench::with(limits, chassis::Tracer::off()).await;
    let address = bench.url.strip_prefix("http://").unwrap();
    let mut connection = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{";
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    connection.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
}

#[testbed::test]
async fn a_gateway_that_is_not_ready_says_why() {
    let bench = Bench::start().await;
    bench.backend.unready("no worker of model \"bytes\"");
    let (status, text) = bench.get("/ready").await;
    assert!(text.contains("no worker of model"), "{text}");
    assert_eq!(status, 503);
    let (status, answer) = bench.chat(json!({})).await;
    assert_eq!(
        (status, &answer["error"]["message"]),
        (503, &json!("no worker of model \"bytes\""))
    );
    assert_eq!(bench.get("/health").await.0, 200);
}

#[testbed::test]
async fn more_requests_than_places_are_refused_at_once() {
    let limits = gateway::Limits { max_inflight: 1, ..limits() };
    let bench = Bench::with(limits, chassis::Tracer::off()).await;
    bench.backend.then(Plan::hangs_after("a"));
    let body = merged(completion_body(), json!({ "stream": true }));
    let mut first = bench.post("/v1/completions", &body).send().await.unwrap();
    assert!(first.chunk().await.unwrap().is_some());
    let response = bench.post("/v1/completions", &completion_body()).send().await.unwrap();
    assert_eq!(response.status(), 429);
    assert!(response.headers().contains_key("retry-after"));
    drop(first);
    eventually("the place is free", async || !bench.backend.given_up().is_empty()).await;
    assert_eq!(bench.complete(json!({})).await.0, 200);
}

#[testbed::test]
async fn a_request_id_is_given_back_unless_it_could_do_harm() {
    let bench = Bench::start().await;
    let ask = async |id: &str| {
        let request = bench.post("/v1/completions", &completion_body()).header("x-request-id", id);
        let response = request.send().await.unwrap();
        response.headers()["x-request-id"].to_str().unwrap().to_owned()
    };
    assert_eq!(ask("my-id.1").await, "my-id.1");
    for bad in ["a b", &"x".repeat(129), ""] {
        let id = ask(bad).await;
        assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    }
    let response = bench.http.get(format!("{}/nothing", bench.url)).send().await.unwrap();
    assert!(response.headers().contains_key("x-request-id"));
}
