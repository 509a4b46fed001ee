//! Spans as a collector receives them: tree, times, resources, sampling, and none without one.

use std::time::{Duration, SystemTime};

use chassis::settings::TelemetrySettings;
use chassis::telemetry::{Caller, SpanKind, Telemetry, Tracer, Value, names};
use testbed::{OtlpReceiver, SpanRecord};

const LIMIT: Duration = Duration::from_secs(20);

fn settings(receiver: &OtlpReceiver) -> TelemetrySettings {
    TelemetrySettings { otlp_endpoint: Some(receiver.url()), ..TelemetrySettings::default() }
}

fn at(offset_ms: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + offset_ms)
}

fn ns(offset_ms: u64) -> u64 {
    (1_700_000_000_000 + offset_ms) * 1_000_000
}

async fn received(receiver: &OtlpReceiver, count: usize) -> Vec<SpanRecord> {
    let spans = receiver.wait_for(LIMIT, |spans| spans.len() >= count).await;
    spans.unwrap_or_else(|got| panic!("{} of {count} spans arrived: {got:#?}", got.len()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stages_of_two_services_become_siblings_under_one_root() {
    let receiver = OtlpReceiver::start().await;
    let gateway = Telemetry::start("gateway", "gw-1", &settings(&receiver)).unwrap();
    let prefill = Telemetry::start("prefill", "pre-1", &settings(&receiver)).unwrap();

    let mut root = gateway.tracer().root_span(
        "POST /v1/chat/completions",
        SpanKind::Server,
        Caller::default(),
        at(0),
    );
    root.attribute(names::HTTP_RESPONSE_STATUS_CODE, 200u16);
    root.event(names::event::FIRST_TOKEN, at(9), [("n", Value::from(1usize))]);
    let trace = root.context();
    trace.stage(names::stage::TOKENIZE, at(0)..at(2), [(names::tandem::TOKENS, 7usize.into())]);
    let message = trace.traceparent();

    let far = prefill.tracer().continue_from(Some(&message));
    assert_eq!(far.trace_id(), trace.trace_id());
    far.stage(names::stage::PREFILL_COMPUTE, at(2)..at(8), []);
    let mut put = far.open(names::stage::KV_PUT, SpanKind::Client, at(3));
    put.link(&trace);
    put.fail("retry", "no ack");
    put.end_at(at(5));
    root.end_at(at(10));
    gateway.shutdown(LIMIT).await;
    prefill.shutdown(LIMIT).await;

    let trace_id = trace.trace_id().to_string();
    received(&receiver, 4).await;
    let tree = receiver.tree(&trace_id);
    assert_eq!(tree.spans().len(), 4, "{tree}");
    assert!(tree.orphans().is_empty(), "{tree}");
    let [root] = tree.roots()[..] else { panic!("one root expected:\n{tree}") };
    assert_eq!((root.service.as_str(), root.instance.as_str()), ("gateway", "gw-1"));
    assert_eq!((root.kind, root.start_ns, root.end_ns), (testbed::SpanKind::Server, ns(0), ns(10)));
    assert_eq!(root.attributes[names::HTTP_RESPONSE_STATUS_CODE], "200");
    assert_eq!((root.events[0].name.as_str(), root.events[0].at_ns), ("first_token", ns(9)));
    assert_eq!(root.error, None);

    let children: Vec<_> = tree.children(&root.span_id);
    let names: Vec<_> = children.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["tokenize", "prefill.compute", "kv.put"]);
    assert_eq!(children[0].attributes[names::tandem::TOKENS], "7");
    assert_eq!((children[1].start_ns, children[1].end_ns), (ns(2), ns(8)));
    assert_eq!(children[1].service, "prefill");
    let put = children[2];
    assert_eq!(put.links, std::slice::from_ref(&root.span_id));
    assert_eq!(put.error.as_deref(), Some("no ack"));
    assert_eq!(put.attributes[names::ERROR_TYPE], "retry");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callers_context_is_continued_and_its_decision_kept() {
    let receiver = OtlpReceiver::start().await;
    // Of new traces nothing is recorded; a caller's sampled trace still is.
    let never = TelemetrySettings { sample_ratio: 0.0, ..settings(&receiver) };
    let telemetry = Telemetry::start("gateway", "gw", &never).unwrap();
    let tracer = telemetry.tracer();
    let open = |traceparent: Option<&str>| {
        tracer.root_span(
            "request",
            SpanKind::Server,
            Caller { traceparent, tracestate: Some("v=1") },
            at(0),
        )
    };

    let fresh = open(None);
    assert!(!fresh.context().is_sampled());
    fresh.context().stage("unseen", at(0)..at(1), []);

    let caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let continued = open(Some(caller));
    let trace = continued.context();
    assert_eq!(trace.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
    assert_ne!(trace.traceparent(), caller, "a span of our own stands in between");
    assert!(trace.traceparent().ends_with("-01"));
    assert_eq!(trace.tracestate().as_deref(), Some("v=1"));
    continued.end_at(at(1));

    let declined = open(Some("00-0af7651916cd43dd8448eb211c80319d-b7ad6b7169203331-00"));
    declined.end_at(at(1));
    fresh.end_at(at(1));
    telemetry.shutdown(LIMIT).await;

    let spans = received(&receiver, 1).await;
    assert_eq!(spans.len(), 1, "{spans:#?}");
    assert_eq!(spans[0].parent_span_id.as_deref(), Some("b7ad6b7169203331"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_without_context_gets_an_id_and_leaves_no_orphan() {
    let receiver = OtlpReceiver::start().await;
    let telemetry = Telemetry::start("decode", "dec", &settings(&receiver)).unwrap();
    for header in [None, Some("garbage"), Some("00-00000000000000000000000000000000-1-01")] {
        let trace = telemetry.tracer().continue_from(header);
        assert_ne!(trace.trace_id().to_string(), "0".repeat(32));
        trace.stage("lost", at(0)..at(1), []);
    }
    let marker =
        telemetry.tracer().root_span("marker", SpanKind::Internal, Caller::default(), at(0));
    marker.end_at(at(1));
    telemetry.shutdown(LIMIT).await;
    let spans = received(&receiver, 1).await;
    assert_eq!(spans.iter().map(|span| span.name.as_str()).collect::<Vec<_>>(), ["marker"]);
}

#[tokio::test]
async fn without_an_endpoint_ids_are_made_and_a_callers_context_passes_through() {
    let telemetry = Telemetry::start("gateway", "gw", &TelemetrySettings::default()).unwrap();
    assert!(!telemetry.is_exporting());
    let tracer = telemetry.tracer();
    let one = tracer.root_span("request", SpanKind::Server, Caller::default(), at(0)).context();
    let other = tracer.root_span("request", SpanKind::Server, Caller::default(), at(0)).context();
    assert_ne!(one.trace_id(), other.trace_id());
    assert!(!one.is_sampled() && one.traceparent().ends_with("-00"));
    assert_eq!(one.tracestate(), None);

    let caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let passed = tracer.root_span(
        "request",
        SpanKind::Server,
        Caller { traceparent: Some(caller), tracestate: None },
        at(0),
    );
    assert_eq!(passed.context().traceparent(), caller);
    telemetry.shutdown(LIMIT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_collector_does_not_hold_up_the_end() {
    let endpoint = Some("http://127.0.0.1:9".to_owned());
    let settings = TelemetrySettings { otlp_endpoint: endpoint, ..TelemetrySettings::default() };
    let telemetry = Telemetry::start("gateway", "gw", &settings).unwrap();
    telemetry.tracer().root_span("lost", SpanKind::Server, Caller::default(), at(0)).end_at(at(1));
    tokio::time::timeout(LIMIT, telemetry.shutdown(Duration::from_millis(300)))
        .await
        .expect("shutdown keeps its limit");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_reach_a_collector_behind_tls_with_a_private_authority() {
    let receiver = OtlpReceiver::start_tls().await;
    assert!(receiver.url().starts_with("https://"), "{}", receiver.url());
    let settings = TelemetrySettings {
        otlp_certificate: Some(testbed::tls_file("authority.pem")),
        ..settings(&receiver)
    };
    let telemetry = Telemetry::start("gateway", "gw", &settings).unwrap();
    telemetry.tracer().root_span("safe", SpanKind::Server, Caller::default(), at(0)).end_at(at(1));
    let spans = received(&receiver, 1).await;
    assert_eq!(spans[0].name, "safe");
    telemetry.shutdown(LIMIT).await;

    // The system's authorities have not signed that certificate.
    let unknown = TelemetrySettings { otlp_certificate: None, ..settings };
    let telemetry = Telemetry::start_or_warn("gateway", "gw", &unknown);
    telemetry.tracer().root_span("lost", SpanKind::Server, Caller::default(), at(0)).end_at(at(1));
    telemetry.shutdown(Duration::from_secs(2)).await;
    assert_eq!(receiver.spans().len(), 1, "{:#?}", receiver.spans());
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_used_costs_the_traces_only() {
    let lacks = |settings: TelemetrySettings| {
        let settings = TelemetrySettings {
            otlp_endpoint: Some(settings.otlp_endpoint.unwrap_or("https://localhost:1".to_owned())),
            ..settings
        };
        assert!(Telemetry::start("gateway", "gw", &settings).is_err());
        !Telemetry::start_or_warn("gateway", "gw", &settings).is_exporting()
    };
    let missing = Some("/nonexistent/authority.pem".into());
    assert!(lacks(TelemetrySettings { otlp_certificate: missing, ..Default::default() }));
    let alone = Some(testbed::tls_file("server.pem"));
    assert!(lacks(TelemetrySettings { otlp_client_certificate: alone, ..Default::default() }));
    let endpoint = Some("http://not a host".to_owned());
    assert!(lacks(TelemetrySettings { otlp_endpoint: endpoint, ..Default::default() }));
}

#[test]
fn a_switched_off_tracer_needs_no_runtime() {
    let mut span = Tracer::off().root_span("x", SpanKind::Server, Caller::default(), at(0));
    span.attribute("key", "value");
    span.fail("internal", "nothing happens");
    let trace = span.context();
    span.end_at(at(1));
    assert!(!trace.is_sampled());
}

#[tokio::test]
async fn every_stage_is_timed_whether_recorded_or_not() {
    let mut registry = chassis::metrics::registry("test");
    let tracer = Tracer::off().timing_stages(&mut registry);
    let trace = tracer.continue_from(None);
    trace.stage(names::stage::PREFILL_QUEUE, at(0)..at(20), []);
    trace.stage(names::stage::PREFILL_QUEUE, at(0)..at(3), []);
    // Another machine's clock may be ahead: no time, not a negative one.
    trace.stage(names::stage::FIRST_TOKEN, at(9)..at(8), []);
    let text = chassis::metrics::Metrics::new(registry).encode().unwrap();
    for line in [
        "tandem_stage_seconds_bucket{le=\"0.005\",stage=\"prefill.queue\"} 1",
        "tandem_stage_seconds_bucket{le=\"0.025\",stage=\"prefill.queue\"} 2",
        "tandem_stage_seconds_sum{stage=\"prefill.queue\"} 0.023",
        "tandem_stage_seconds_bucket{le=\"0.0001\",stage=\"first_token\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_sampled_is_exported_by_all_services_once_one_says_so() {
    let receiver = OtlpReceiver::start().await;
    let never = TelemetrySettings { sample_ratio: 0.0, ..settings(&receiver) };
    let gateway = Telemetry::start("gateway", "gw", &never).unwrap();
    let worker = Telemetry::start("prefill", "p", &never).unwrap();
    let request = |good: bool| {
        let root =
            gateway.tracer().root_span("request", SpanKind::Server, Caller::default(), at(0));
        let trace = root.context();
        assert!(!trace.is_sampled() && trace.is_recorded());
        let far = worker.tracer().continue_from(Some(&trace.traceparent()));
        far.stage(names::stage::PREFILL_COMPUTE, at(1)..at(2), []);
        trace.decide(!good);
        assert_eq!(trace.is_kept(), !good);
        root.end_at(at(3));
        (trace, far)
    };
    let (good, _) = request(true);
    let (bad, far) = request(false);
    let verdicts = gateway.tracer().take_verdicts();
    assert_eq!((verdicts.keep.len(), verdicts.forget.len()), (1, 1));
    worker.tracer().apply_verdicts(&verdicts);
    assert!(far.is_kept());
    // A stage that ends after the request.
    far.stage(names::stage::KV_PUT, at(2)..at(9), []);
    gateway.shutdown(LIMIT).await;
    worker.shutdown(LIMIT).await;
    let spans = received(&receiver, 3).await;
    assert_eq!(spans.len(), 3, "{spans:#?}");
    let tree = receiver.tree(&bad.trace_id().to_string());
    assert_eq!((tree.roots().len(), tree.orphans().len()), (1, 0), "{tree}");
    assert!(receiver.spans_of_trace(&good.trace_id().to_string()).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shared_work_is_a_trace_of_its_own_with_links_both_ways() {
    let receiver = OtlpReceiver::start().await;
    let telemetry = Telemetry::start("decode", "d", &settings(&receiver)).unwrap();
    let tracer = telemetry.tracer();
    let open = || tracer.root_span("request", SpanKind::Server, Caller::default(), at(0));
    let (one, other) = (open(), open());
    let causes = [one.context(), other.context()];
    let step = tracer.shared_work("decode step", at(1)..at(2), &causes, []);
    assert!(causes.iter().all(|cause| cause.trace_id() != step.trace_id()));
    let mut stage = causes[0].begin_stage(names::stage::DECODE_GENERATE, &(at(1)..at(3))).unwrap();
    stage.link(&step);
    stage.end_at(at(3));
    one.end_at(at(4));
    other.end_at(at(4));
    telemetry.shutdown(LIMIT).await;
    received(&receiver, 4).await;
    let tree = receiver.tree(&step.trace_id().to_string());
    let span = tree.roots()[0];
    assert_eq!((span.name.as_str(), span.links.len()), ("decode step", 2));
    let stage = receiver.tree(&causes[0].trace_id().to_string());
    assert_eq!(stage.named("decode.generate")[0].links, std::slice::from_ref(&span.span_id));
}
