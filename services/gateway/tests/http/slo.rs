//! Trace verdicts outside the sample, and the contents of spans.

use std::time::Duration;

use chassis::settings::TelemetrySettings;
use chassis::telemetry::Telemetry;
use gateway::SloPolicy;
use protocol::ErrorClass;
use serde_json::json;
use testbed::{OtlpReceiver, SpanRecord};

use crate::bench::{Bench, Plan};

const LIMIT: Duration = Duration::from_secs(10);
const ROOT: &str = "POST /v1/chat/completions";

struct Site {
    receiver: OtlpReceiver,
    telemetry: Telemetry,
    bench: Bench,
}

impl Site {
    async fn start(sample_ratio: f64, slo: SloPolicy, record_contents: bool) -> Self {
        let receiver = OtlpReceiver::start().await;
        let settings = TelemetrySettings {
            otlp_endpoint: Some(receiver.url()),
            sample_ratio,
            ..TelemetrySettings::default()
        };
        let telemetry = Telemetry::start("gateway", "test", &settings).unwrap();
        let bench = Bench::observing(slo, record_contents, telemetry.tracer()).await;
        Self { receiver, telemetry, bench }
    }

    /// The roots that were exported.
    async fn roots(self) -> Vec<SpanRecord> {
        self.telemetry.shutdown(LIMIT).await;
        let mut spans = self.receiver.spans();
        spans.retain(|span| span.name == ROOT);
        spans
    }
}

#[testbed::test(multi_thread)]
async fn outside_the_sample_only_failures_are_kept() {
    let site = Site::start(0.0, SloPolicy::default(), false).await;
    site.bench.chat(json!({})).await;
    site.bench.chat(json!({ "max_tokens": -1 })).await;
    site.bench.backend.then(Plan::fails_after("Hel", ErrorClass::Internal));
    site.bench.stream("/v1/chat/completions", json!({})).await;
    site.bench.backend.then(Plan::refused(ErrorClass::Internal));
    site.bench.chat(json!({})).await;
    let decided = site.telemetry.tracer().take_verdicts();
    assert_eq!((decided.keep.len(), decided.forget.len()), (2, 2));
    let roots = site.roots().await;
    assert_eq!(roots.len(), 2, "{roots:#?}");
    assert!(roots.iter().all(|root| root.error.is_some()), "{roots:#?}");
    // The first failed after three tokens, the second used nothing.
    let usage = roots.iter().map(|root| root.attributes.get("gen_ai.usage.output_tokens"));
    assert_eq!(usage.collect::<Vec<_>>(), [Some(&"3".to_owned()), None]);
}

#[testbed::test(multi_thread)]
async fn what_misses_its_slo_is_kept_and_says_so() {
    let strict = SloPolicy { ttft_ms: Some(1e-6), ..SloPolicy::default() };
    let site = Site::start(0.0, strict, false).await;
    site.bench.chat(json!({})).await;
    let roots = site.roots().await;
    assert_eq!(roots.len(), 1);
    assert!(roots[0].events.iter().any(|event| event.name == "slo_missed"), "{roots:#?}");
    assert_eq!(roots[0].error, None);

    let generous = SloPolicy { ttft_ms: Some(60_000.0), tpot_ms: Some(60_000.0) };
    let site = Site::start(0.0, generous, false).await;
    site.bench.chat(json!({})).await;
    assert!(site.roots().await.is_empty());
}

#[testbed::test(multi_thread)]
async fn spans_carry_contents_only_when_configured() {
    for contents in [false, true] {
        let site = Site::start(1.0, SloPolicy::default(), contents).await;
        site.bench.backend.then(Plan::says("a secret answer"));
        let message = json!({ "messages": [{ "role": "user", "content": "a secret question" }] });
        site.bench.stream("/v1/chat/completions", message).await;
        site.telemetry.shutdown(LIMIT).await;
        let spans = format!("{:#?}", site.receiver.spans());
        assert!(spans.contains(ROOT), "{spans}");
        for secret in ["secret question", "secret answer"] {
            assert_eq!(spans.contains(secret), contents, "{spans}");
        }
    }
}

#[testbed::test(multi_thread)]
async fn a_load_run_is_named_by_its_baggage() {
    let site = Site::start(1.0, SloPolicy::default(), false).await;
    let body = crate::bench::chat_body();
    let request = site.bench.post("/v1/chat/completions", &body);
    request.header("baggage", "x=y, loadgen.run_id=run-7").send().await.unwrap();
    let roots = site.roots().await;
    assert_eq!(roots[0].attributes["loadgen.run_id"], "run-7");
}
