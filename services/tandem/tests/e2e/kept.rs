//! Sampling over all services: what nobody chose beforehand is whole when it turns out to matter.

use std::time::Duration;

use serde_json::{Value, json};
use testbed::{OtlpReceiver, SpanRecord};

use crate::harness::{System, block_on, turn};
use crate::http::Stream;

/// Exports happen twice a second, verdicts five times.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(20);
/// Time in which what must not come would have come.
const SILENCE: Duration = Duration::from_secs(3);

fn body() -> Value {
    json!({ "prompt": "one two three four one two three four one two three four one two three \
                       four one two three four", "max_tokens": 6, "ignore_eos": true })
}

fn system(receiver: &OtlpReceiver, ttft_ms: &str) -> Option<System> {
    let endpoint = format!("telemetry.otlp_endpoint={}", receiver.url());
    let slo = format!("telemetry.slo.ttft_ms={ttft_ms}");
    let sampling = ["--set", &endpoint, "--set", "telemetry.sample_ratio=0", "--set", &slo];
    System::simulated(&sampling)
}

async fn trace_of_one(base: &str) -> String {
    let stream = Stream::open(base, "/v1/completions", &body()).await;
    let trace_id = stream.trace_id.clone().expect("the answer names its trace");
    stream.rest().await;
    trace_id
}

#[test]
fn a_request_that_misses_its_slo_is_whole_although_nobody_sampled_it() {
    let _turn = turn();
    let receiver = block_on(OtlpReceiver::start());
    let Some(system) = system(&receiver, "0.001") else { return };
    let trace_id = block_on(trace_of_one(&system.base));
    let wanted =
        ["tokenize", "kvstore lookup", "prefill.compute", "kv.put", "decode.generate", "stream"];
    let complete = |spans: &[SpanRecord]| {
        let here = |name: &str| spans.iter().any(|s| s.trace_id == trace_id && s.name == name);
        wanted.iter().all(|name| here(name)) && here("POST /v1/completions")
    };
    let arrived = block_on(receiver.wait_for(ARRIVAL_LIMIT, complete));
    let tree = receiver.tree(&trace_id);
    assert!(arrived.is_ok(), "{tree}");
    assert_eq!((tree.roots().len(), tree.orphans().len()), (1, 0), "{tree}");
    for service in ["gateway", "prefill", "decode", "kvstore"] {
        assert!(tree.spans().iter().any(|span| span.service == service), "{service}: {tree}");
    }
}

#[test]
fn a_request_that_goes_well_outside_the_sample_leaves_nothing() {
    let _turn = turn();
    let receiver = block_on(OtlpReceiver::start());
    let Some(system) = system(&receiver, "60000") else { return };
    let trace_id = block_on(trace_of_one(&system.base));
    std::thread::sleep(SILENCE);
    assert!(receiver.spans_of_trace(&trace_id).is_empty(), "{}", receiver.tree(&trace_id));
    let metrics = format!("{}/metrics", system.base);
    let (_, text) = block_on(crate::http::get(&metrics)).expect("the gateway answers");
    let forgotten = text.lines().find_map(|line| {
        line.strip_prefix("tandem_trace_spans_forgotten_total ")?.parse::<u64>().ok()
    });
    assert!(forgotten.is_some_and(|spans| 5 < spans), "{text}");
}
