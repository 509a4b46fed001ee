//! One request is one trace, whose stages add up to the client's wait.

use std::time::Duration;

use serde_json::json;
use testbed::{SpanKind, SpanRecord, TraceTree};

use crate::harness::{TO_FIRST_TOKEN, block_on, shared, turn};
use crate::http::Stream;

/// Far longer than the time between exports.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(30);
const AFTER: [&str; 6] =
    ["kv.put", "decode.queue", "decode.kv_pull", "decode.first_step", "decode.generate", "stream"];

#[testbed::test]
fn a_request_is_one_trace_whose_stages_sum_to_the_ttft() {
    let _turn = turn();
    let (system, receiver) = shared();
    let prompt: Vec<u32> = (0..200).map(|place| 3000 + place * 17).collect();
    let body = json!({ "prompt": prompt, "temperature": 0, "max_tokens": 12,
                       "ignore_eos": true });
    let trace_id = block_on(async {
        let stream = Stream::open(&system.base, "/v1/completions", &body).await;
        let trace_id = stream.trace_id.clone().expect("the answer names its trace");
        stream.rest().await;
        trace_id
    });
    let wanted: Vec<&str> = TO_FIRST_TOKEN.into_iter().chain(AFTER).collect();
    let arrived = block_on(receiver.wait_for(ARRIVAL_LIMIT, |spans| {
        let mut names = wanted.iter().chain(&["kvstore lookup"]);
        names.all(|name| spans.iter().any(|s| s.trace_id == trace_id && s.name == *name))
            && spans.iter().any(|s| is_root(s, &trace_id))
    }));
    let tree = receiver.tree(&trace_id);
    println!("{tree}");
    assert!(arrived.is_ok(), "stages are missing from\n{tree}");

    assert_eq!(tree.roots().len(), 1, "{tree}");
    assert!(tree.orphans().is_empty(), "{tree}");
    let root = tree.roots()[0].clone();
    assert_eq!((root.kind, root.service.as_str()), (SpanKind::Server, "gateway"), "{tree}");
    for service in ["gateway", "prefill", "decode", "kvstore"] {
        assert!(tree.spans().iter().any(|span| span.service == service), "{service}: {tree}");
    }
    for name in &wanted {
        for span in tree.named(name) {
            assert_eq!(span.parent_span_id.as_ref(), Some(&root.span_id), "{name}: {tree}");
        }
    }
    assert_stages_sum_to_ttft(&tree, &root);
    assert_messages_and_steps(&tree);
    let linked: Vec<String> = tree.spans().iter().flat_map(|span| span.links.clone()).collect();
    let step = |span: &SpanRecord| span.name.ends_with(" step") && linked.contains(&span.span_id);
    let steps: Vec<SpanRecord> = receiver.spans().into_iter().filter(|span| step(span)).collect();
    let ids: Vec<&String> = tree.spans().iter().map(|span| &span.span_id).collect();
    for service in ["prefill", "decode"] {
        let of = steps.iter().find(|step| step.service == service).expect(service);
        assert!(of.parent_span_id.is_none() && of.trace_id != trace_id, "{of:#?}");
        assert!(of.links.iter().any(|link| ids.contains(&link)), "{of:#?}");
        assert!(of.attributes.contains_key("tandem.step.forward_ms"), "{of:#?}");
    }
}

/// Checks that jobs are published and processed, that the store replies, and that no span has texts.
fn assert_messages_and_steps(tree: &TraceTree) {
    let sent = tree.named("publish tandem.v1.worker.{worker}.job");
    let taken = tree.named("process tandem.v1.worker.{worker}.job");
    assert_eq!((sent.len(), taken.len()), (2, 2), "{tree}");
    for span in taken {
        let sending = sent.iter().find(|sent| span.parent_span_id.as_ref() == Some(&sent.span_id));
        let sending = sending.expect("a job is processed below its publishing");
        assert_eq!((sending.kind, span.kind), (SpanKind::Producer, SpanKind::Consumer));
        assert_eq!(span.links, std::slice::from_ref(&sending.span_id));
        assert_eq!(span.attributes["messaging.system"], "nats");
        assert_eq!(span.attributes["tandem.answer"], "accepted");
    }
    let (asked, answered) = (tree.named("kv lookup")[0], tree.named("kvstore lookup")[0]);
    assert_eq!(answered.parent_span_id.as_ref(), Some(&asked.span_id), "{tree}");
    assert_eq!(asked.attributes["tandem.kv.hit"], "false");
    let pulled = &tree.named("decode.kv_pull")[0].attributes;
    assert_eq!(pulled["tandem.kv.path"], "listen", "{pulled:#?}");
    assert_ne!(pulled["tandem.kv.bytes"], "0", "{pulled:#?}");
    let texts = ["gen_ai.input.messages", "gen_ai.output.messages"];
    let mut keys = tree.spans().iter().flat_map(|span| span.attributes.keys());
    let has_texts = keys.any(|key| texts.contains(&key.as_str()));
    assert!(!has_texts, "contents without being asked for: {tree}");
}

fn is_root(span: &SpanRecord, trace_id: &str) -> bool {
    span.trace_id == trace_id && span.parent_span_id.is_none()
}

fn assert_stages_sum_to_ttft(tree: &TraceTree, root: &SpanRecord) {
    let ttft_ms: f64 =
        root.attributes.get("tandem.ttft_ms").and_then(|text| text.parse().ok()).expect("a number");
    let stages: Vec<&SpanRecord> =
        TO_FIRST_TOKEN.iter().flat_map(|name| tree.named(name)).collect();
    let sum_ms: f64 = stages.iter().map(|span| span.duration_ms()).sum();
    eprintln!("TTFT {ttft_ms:.3} ms, stages {sum_ms:.3} ms");
    assert!((sum_ms - ttft_ms).abs() <= 0.02 * ttft_ms, "{sum_ms} ms of {ttft_ms} ms\n{tree}");
    // They follow one another; otherwise the sum would be right by accident.
    let gap_max_ns = (0.02 * ttft_ms * 1e6) as u64;
    for pair in stages.windows(2) {
        let gap_ns = pair[1].start_ns.abs_diff(pair[0].end_ns);
        assert!(gap_ns <= gap_max_ns, "{} to {}: {gap_ns} ns\n{tree}", pair[0].name, pair[1].name);
    }
}
