//! The gateway's spans: one root per request, its own stages, the caller's trace.

use std::time::Duration;

use chassis::telemetry::Telemetry;
use serde_json::json;

use crate::bench::{Bench, Plan, chat_body, limits, merged};

#[testbed::test(multi_thread)]
async fn a_request_continues_its_callers_trace_and_its_stages_touch() {
    let receiver = testbed::OtlpReceiver::start().await;
    let settings = chassis::settings::TelemetrySettings {
        otlp_endpoint: Some(receiver.url()),
        ..Default::default()
    };
    let telemetry = Telemetry::start("gateway", "test", &settings).unwrap();
    let bench = Bench::with(limits(), telemetry.tracer()).await;
    bench.backend.then(Plan::says("Hello"));
    let trace_id = "0af7651916cd43dd8448eb211c80319c";
    let body = merged(chat_body(), json!({ "stream": true }));
    let response = bench
        .post("/v1/chat/completions", &body)
        .header("traceparent", format!("00-{trace_id}-b7ad6b7169203331-01"))
        .send()
        .await
        .unwrap();
    let traceparent = response.headers()["traceparent"].to_str().unwrap().to_owned();
    response.text().await.unwrap();
    telemetry.shutdown(Duration::from_secs(10)).await;

    let tree = receiver.tree(trace_id);
    let root = tree.named("POST /v1/chat/completions")[0];
    assert_eq!(root.parent_span_id.as_deref(), Some("b7ad6b7169203331"));
    assert_eq!(traceparent, format!("00-{trace_id}-{}-01", root.span_id));
    assert_eq!(root.attributes["gen_ai.usage.output_tokens"], "6");
    assert_eq!(root.attributes["http.response.status_code"], "200");
    let stage = |name: &str| {
        let spans = tree.named(name);
        assert_eq!(spans.len(), 1, "{name}");
        assert_eq!(spans[0].parent_span_id.as_ref(), Some(&root.span_id), "{name}");
        spans[0]
    };
    let (tokenize, first, stream) = (stage("tokenize"), stage("first_token"), stage("stream"));
    assert_eq!(tokenize.start_ns, root.start_ns);
    assert_eq!(first.end_ns, stream.start_ns);
    assert_eq!(stream.end_ns, root.end_ns);
    let ttft_ms: f64 = root.attributes["tandem.ttft_ms"].parse().unwrap();
    let spans_ms = (first.end_ns - root.start_ns) as f64 / 1e6;
    assert!((ttft_ms - spans_ms).abs() < 1.0, "{ttft_ms} ms, by spans {spans_ms} ms");
}

#[testbed::test]
async fn without_export_a_callers_trace_is_handed_on() {
    let bench = Bench::start().await;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = bench.post("/v1/chat/completions", &chat_body()).header("traceparent", parent);
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["traceparent"], parent);
    assert_eq!(bench.backend.generations()[0].trace.traceparent(), parent);
    let response = bench.post("/v1/chat/completions", &chat_body()).send().await.unwrap();
    assert_eq!(response.headers()["traceparent"].len(), parent.len());
}
