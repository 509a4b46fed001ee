//! Tail sampling over all services: an unsampled trace is exported whole if its request missed its
//! SLO, and not at all otherwise.

use std::time::Duration;

use serde_json::{Value, json};
use testbed::{OtlpReceiver, SpanRecord, wait_for};

use crate::harness::{System, block_on, turn};
use crate::http::Stream;

/// Far longer than the delays of exports and verdicts, a fifth of a second each.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(20);
const PATH: &str = "/v1/completions";

fn body(words: &str) -> Value {
    let prompt = [words; 5].join(" ");
    json!({ "prompt": prompt, "max_tokens": 6, "ignore_eos": true })
}

fn system(receiver: &OtlpReceiver, ttft_ms: &str) -> System {
    let endpoint = format!("telemetry.otlp_endpoint={}", receiver.url());
    let slo = format!("telemetry.slo.ttft_ms={ttft_ms}");
    let sampling = ["--set", &endpoint, "--set", "telemetry.sample_ratio=0", "--set", &slo];
    System::simulated(&sampling)
}

/// Sends an unsampled request; returns its trace id.
async fn unsampled_request(base: &str) -> String {
    let stream = Stream::open(base, PATH, &body("one two three four")).await;
    let trace_id = stream.trace_id.clone().expect("the answer names its trace");
    stream.rest().await;
    trace_id
}

/// Returns true if every service's spans of a request have arrived.
fn is_whole(spans: &[SpanRecord], trace_id: &str) -> bool {
    let names = [
        "tokenize",
        "kvstore lookup",
        "prefill.compute",
        "kv.put",
        "decode.generate",
        "stream",
        "POST /v1/completions",
    ];
    names.iter().all(|name| spans.iter().any(|s| s.trace_id == trace_id && s.name == *name))
}

#[testbed::test]
fn an_unsampled_request_that_misses_its_slo_is_whole() {
    let _turn = turn();
    let receiver = block_on(OtlpReceiver::start());
    let system = system(&receiver, "0.001");
    let trace_id = block_on(unsampled_request(&system.base));
    let arrived = block_on(receiver.wait_for(ARRIVAL_LIMIT, |spans| is_whole(spans, &trace_id)));
    let tree = receiver.tree(&trace_id);
    assert!(arrived.is_ok(), "{tree}");
    assert_eq!((tree.roots().len(), tree.orphans().len()), (1, 0), "{tree}");
    for service in ["gateway", "prefill", "decode", "kvstore"] {
        assert!(tree.spans().iter().any(|span| span.service == service), "{service}: {tree}");
    }
}

#[testbed::test]
fn a_request_that_goes_well_outside_the_sample_leaves_nothing() {
    let _turn = turn();
    let receiver = block_on(OtlpReceiver::start());
    let system = system(&receiver, "60000");
    let trace_id = block_on(unsampled_request(&system.base));
    wait_for(ARRIVAL_LIMIT, || {
        let metrics = format!("{}/metrics", system.base);
        let (_, text) = block_on(crate::http::get(&metrics)).ok_or("no answer")?;
        let forgotten = text.lines().find_map(|line| {
            line.strip_prefix("tandem_trace_spans_forgotten_total ")?.parse::<u64>().ok()
        });
        if forgotten.is_some_and(|spans| spans > 5) { Ok(()) } else { Err(text) }
    });

    // A sampled request's spans are exported after all that its predecessor could have left.
    let sampled = "5a".repeat(16);
    block_on(async {
        let traceparent = format!("00-{sampled}-00f067aa0ba902b7-01");
        let body = body("four three two one");
        Stream::open_in(&system.base, PATH, &body, &traceparent).await.rest().await;
    });
    let arrived = block_on(receiver.wait_for(ARRIVAL_LIMIT, |spans| is_whole(spans, &sampled)));
    assert!(arrived.is_ok(), "{}", receiver.tree(&sampled));
    assert!(receiver.spans_of_trace(&trace_id).is_empty(), "{}", receiver.tree(&trace_id));
}
