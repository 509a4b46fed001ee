//! Health endpoints over real HTTP, and serving that finishes what it began.

#![allow(clippy::unwrap_used, reason = "what helps a test may fail like a test")]

use std::time::Duration;

use axum::{Router, routing::get};
use chassis::Tasks;
use chassis::http::{Readiness, health_router, serve};
use chassis::metrics::{CONTENT_TYPE, Metrics, TTFT_SECONDS, registry};
use chassis::settings::TelemetrySettings;

use chassis::telemetry::{Caller, SpanKind, Telemetry, Trace, TracedHistogram};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

const LIMIT: Duration = Duration::from_secs(10);

/// Serves until stopped; aborted when dropped.
struct Server {
    url: String,
    stop: chassis::StopToken,
    running: JoinSet<anyhow::Result<()>>,
}

impl Server {
    async fn finish(mut self) {
        self.stop.cancel();
        self.running.join_next().await.unwrap().unwrap().unwrap();
    }
}

async fn start(router: Router) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut tasks = Tasks::new();
    let stop = tasks.stop();
    let serving = serve(listener, router, stop.clone());
    tasks.spawn("http", async move { Ok(serving.await?) });
    let running = tasks.run_until(stop.clone().cancelled_owned(), LIMIT);
    let mut server = JoinSet::new();
    server.spawn(running);
    Server { url, stop, running: server }
}

async fn fetch(url: String) -> (u16, String, String) {
    let response = testbed::http().build().unwrap().get(url).timeout(LIMIT).send().await.unwrap();
    let status = response.status().as_u16();
    let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
    (status, kind, response.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_is_alive_before_it_is_ready() {
    let readiness = Readiness::waiting_for(["nats", "model"]);
    let server = start(health_router(readiness.clone(), Metrics::new(registry("test")))).await;
    let health = || fetch(format!("{}/health", server.url));
    let ready = || fetch(format!("{}/ready", server.url));

    assert_eq!(health().await.0, 200);
    let (status, _, body) = ready().await;
    assert_eq!(status, 503);
    assert_eq!(body, r#"{"status":"not ready","reasons":{"model":"starting","nats":"starting"}}"#);

    readiness.met("model");
    readiness.unmet("nats", "connection refused");
    let (status, _, body) = ready().await;
    assert_eq!(status, 503);
    assert!(body.contains("connection refused") && !body.contains("model"), "{body}");

    readiness.met("nats");
    assert!(readiness.is_ready());
    assert_eq!(ready().await.0, 200);
    readiness.unmet("nats", "disconnected");
    assert_eq!(ready().await.0, 503, "readiness can be lost again");
    assert_eq!(health().await.0, 200);

    server.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_openmetrics_with_exemplars_of_recorded_traces_only() {
    // Nothing needs to listen there: only the sampling decision matters.
    let endpoint = Some("http://127.0.0.1:9".to_owned());
    let settings = TelemetrySettings { otlp_endpoint: endpoint, ..TelemetrySettings::default() };
    let telemetry = Telemetry::start("test", "t", &settings).unwrap();
    let now = std::time::SystemTime::now();
    let span = telemetry.tracer().root_span("r", SpanKind::Server, Caller::default(), now);

    let mut registry = registry("test");
    let ttft = TracedHistogram::new(&TTFT_SECONDS);
    registry.register("vllm:time_to_first_token_seconds", "Time to first token", ttft.clone());
    ttft.observe(0.035, &span.context());
    ttft.observe_duration(Duration::from_secs(3), &Trace::off());
    let server = start(health_router(Readiness::default(), Metrics::new(registry))).await;

    let (status, kind, text) = fetch(format!("{}/metrics", server.url)).await;
    assert_eq!((status, kind.as_str()), (200, CONTENT_TYPE));
    assert!(text.ends_with("# EOF\n") && !text.ends_with("\n\n# EOF\n"), "{text}");
    assert!(text.contains("tandem_build_info{service=\"test\",version=\""), "{text}");
    let bucket = |bound: &str| {
        let start = format!("vllm:time_to_first_token_seconds_bucket{{le=\"{bound}\"}}");
        text.lines().find(|line| line.starts_with(&start)).unwrap().to_owned()
    };
    let trace_id = span.context().trace_id().to_string();
    assert!(bucket("0.04").contains(&format!("1 # {{trace_id=\"{trace_id}\"}} 0.035")), "{text}");
    assert!(bucket("5.0").ends_with(" 2"), "no exemplar of an unrecorded trace: {text}");
    assert!(text.contains("vllm:time_to_first_token_seconds_count 2"), "{text}");
    server.finish().await;
    telemetry.shutdown(Duration::from_millis(200)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_open_at_the_stop_is_finished() {
    let (entered, began) = tokio::sync::oneshot::channel::<()>();
    let (release, released) = tokio::sync::oneshot::channel::<()>();
    let gates = std::sync::Arc::new(std::sync::Mutex::new(Some((entered, released))));
    let router = Router::new().route(
        "/slow",
        get(move || async move {
            let (entered, released) = gates.lock().unwrap().take().unwrap();
            entered.send(()).unwrap();
            released.await.unwrap();
            "finished"
        }),
    );
    let server = start(router).await;
    let answer = fetch(format!("{}/slow", server.url));
    let stop = async {
        began.await.unwrap();
        server.stop.cancel();
        release.send(()).unwrap();
    };
    let ((status, _, body), ()) = tokio::join!(answer, stop);
    assert_eq!((status, body.as_str()), (200, "finished"));
    server.finish().await;
}
