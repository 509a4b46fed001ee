//! The page: its files and their headers, the fleet's state, and the stream of states.

use std::time::{Duration, SystemTime};

use gateway::dispatch::fleet::FleetView;
use gateway::dispatch::history::{Change, ChangeKind};
use gateway::page::WATCHERS_MAX;
use protocol::*;
use serde_json::{Value, json};
use testbed::{PATIENCE, eventually, soon};

use crate::bench::Bench;

fn worker(name: &str, role: Role) -> WorkerState {
    WorkerState {
        prefill_share: 1.0,
        epoch: 1_700_000_000_000,
        model: "<img src=x onerror=alert(1)>".to_owned(),
        context_tokens: 256,
        running_sequences: 1,
        pool: PoolState { free: 120, cached: 5, leased: 3, total: 128, leaked: 0 },
        health_address: "127.0.0.1:1".to_owned(),
        ..testbed::idle_worker(name, role)
    }
}

fn fleet() -> FleetView {
    let (at, kind) = (SystemTime::now(), ChangeKind::Up(Role::Decode));
    let workers = [worker("d1", Role::Decode), worker("p1", Role::Prefill)];
    FleetView {
        workers: workers.map(|state| (state, Duration::from_millis(300))).to_vec(),
        changes: vec![Change { at, worker: "d1".parse().unwrap(), kind }],
        ..FleetView::default()
    }
}

/// The next state of a stream.
async fn next(stream: &mut reqwest::Response) -> Option<Value> {
    let chunk = soon("a state comes", stream.chunk()).await.unwrap()?;
    let text = String::from_utf8(chunk.to_vec()).unwrap();
    let data = text.strip_prefix("data: ").unwrap().strip_suffix("\n\n").unwrap();
    Some(serde_json::from_str(data).unwrap())
}

#[testbed::test]
async fn the_page_may_load_nothing_but_its_own_files() {
    let bench = Bench::start().await;
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/page/page.css", "text/css; charset=utf-8"),
        ("/page/main.js", "text/javascript; charset=utf-8"),
        ("/page/icon.svg", "image/svg+xml"),
    ] {
        let response = bench.http.get(format!("{}{path}", bench.url)).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("content-type"), kind);
        let policy = header("content-security-policy");
        for rule in ["default-src 'none'", "script-src 'self';", "frame-ancestors 'none'"] {
            assert!(policy.contains(rule), "{policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("referrer-policy"), "no-referrer");
        assert!(!response.text().await.unwrap().is_empty());
    }
}

#[testbed::test]
async fn a_file_that_is_held_already_is_not_sent_again() {
    let bench = Bench::start().await;
    let url = format!("{}/page/main.js", bench.url);
    let first = bench.http.get(&url).send().await.unwrap();
    let tag = first.headers()["etag"].clone();
    let again = bench.http.get(&url).header("if-none-match", &tag).send().await.unwrap();
    assert_eq!(
        (again.status(), again.headers().get("etag")),
        (304.try_into().unwrap(), Some(&tag))
    );
    assert!(again.text().await.unwrap().is_empty());
    let other = bench.http.get(&url).header("if-none-match", "\"other\"").send().await.unwrap();
    assert_eq!(other.status(), 200);
    let head = bench.http.head(&url).send().await.unwrap();
    assert_eq!((head.status(), head.headers().get("etag")), (200.try_into().unwrap(), Some(&tag)));
    assert!(head.text().await.unwrap().is_empty());
}

#[testbed::test]
async fn other_paths_and_methods_have_the_envelope() {
    let bench = Bench::start().await;
    for path in ["/page/", "/page/none.js", "/page/..%2Fmod.rs", "/page/index.html"] {
        assert_eq!(bench.get(path).await.0, 404, "{path}");
    }
    let response = bench.http.post(format!("{}/fleet", bench.url)).send().await.unwrap();
    assert_eq!(response.status(), 405);
    let error: Value = response.json().await.unwrap();
    assert_eq!(error["error"]["type"], "MethodNotAllowedError");
}

#[testbed::test]
async fn the_fleet_is_reported_as_json() {
    let bench = Bench::start().await;
    bench.backend.has(fleet());
    assert_eq!(bench.chat(json!({})).await.0, 200);
    let response = bench.http.get(format!("{}/fleet", bench.url)).send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!(response.headers()["cache-control"], "no-store");
    let state: Value = response.json().await.unwrap();
    assert_eq!((&state["version"], &state["gateway"]["model"]), (&json!(1), &json!("bytes")));
    let names: Vec<&str> = state["workers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["worker"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["d1", "p1"]);
    assert_eq!(state["workers"][0]["model"], "<img src=x onerror=alert(1)>");
    assert_eq!(state["workers"][0]["pool"]["leased"], 3);
    assert!(state["workers"][0].get("health_address").is_none(), "{state}");
    assert_eq!(state["changes"][0]["to"], "decode");
    // Read from the gateway's own metrics, so a renamed one shows here.
    let requests = &state["requests"];
    assert_eq!((&requests["answered"]["200"], &requests["running"]), (&json!(1.0), &json!(0.0)));
    assert_eq!(
        (&requests["prompt_tokens"], &requests["generation_tokens"]),
        (&json!(21.0), &json!(3.0))
    );
    assert_eq!(
        (&requests["ttft_s"]["count"], &requests["itl_s"]["count"]),
        (&json!(1.0), &json!(2.0))
    );
    let buckets = requests["ttft_s"]["buckets"].as_array().unwrap();
    assert_eq!(buckets.last().unwrap()[1], 1.0);
}

#[testbed::test]
async fn a_browser_is_shown_the_metrics_and_prometheus_gets_its_format() {
    let bench = Bench::start().await;
    let kind = async |accept: &str| {
        let request = bench.http.get(format!("{}/metrics", bench.url)).header("accept", accept);
        let response = request.send().await.unwrap();
        response.headers()["content-type"].to_str().unwrap().to_owned()
    };
    assert_eq!(
        kind("text/html,application/xhtml+xml,*/*;q=0.8").await,
        "text/plain; charset=utf-8"
    );
    let prometheus = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5,*/*;q=0.1";
    for accept in [prometheus, "*/*"] {
        assert_eq!(kind(accept).await, chassis::metrics::CONTENT_TYPE, "{accept}");
    }
}

#[testbed::test(paused)]
async fn all_who_watch_share_one_look_a_second() {
    let bench = Bench::start().await;
    let began = tokio::time::Instant::now();
    let mut streams = Vec::new();
    for _ in 0..8 {
        let response = bench.http.get(format!("{}/fleet/events", bench.url)).send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
        streams.push(response);
    }
    let mut times = Vec::new();
    for stream in &mut streams {
        let first = next(stream).await.unwrap();
        let second = next(stream).await.unwrap();
        times.extend([first, second].map(|state| state["time_ms"].as_u64().unwrap()));
    }
    times.sort_unstable();
    times.dedup();
    let (looks, seconds) = (bench.backend.looks(), began.elapsed().as_secs() as usize);
    assert!(
        times.len() <= looks && looks <= seconds + 2,
        "{looks} looks in {seconds} s: {times:?}"
    );
}

#[testbed::test]
async fn watchers_are_bounded_and_leave_their_place() {
    let bench = Bench::start().await;
    let url = format!("{}/fleet/events", bench.url);
    let mut streams = Vec::new();
    for _ in 0..WATCHERS_MAX {
        streams.push(bench.http.get(&url).send().await.unwrap());
    }
    let refused = bench.http.get(&url).send().await.unwrap();
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(bench.get("/fleet").await.0, 200);
    drop(streams);
    eventually("a place is free", async || {
        bench.http.get(&url).send().await.unwrap().status() == 200
    })
    .await;
}

#[testbed::test]
async fn a_stop_ends_the_streams_and_the_server() {
    let mut bench = Bench::start().await;
    let mut stream = bench.http.get(format!("{}/fleet/events", bench.url)).send().await.unwrap();
    assert!(next(&mut stream).await.is_some());
    bench.stop.cancel();
    while next(&mut stream).await.is_some() {}
    soon("the server ends", bench.ended()).await;
}

#[testbed::test(paused)]
async fn without_a_watcher_the_fleet_is_not_looked_at() {
    let bench = Bench::start().await;
    let mut stream = bench.http.get(format!("{}/fleet/events", bench.url)).send().await.unwrap();
    assert!(next(&mut stream).await.is_some());
    eventually("it was looked at", async || bench.backend.looks() > 0).await;
    drop(stream);
    let quiet = async {
        // A watcher would request the status twice in this time.
        let pause = Duration::from_millis(2_500);
        let mut looks = 0;
        while std::mem::replace(&mut looks, bench.backend.looks()) != looks {
            tokio::time::sleep(pause).await;
        }
    };
    tokio::time::timeout(PATIENCE, quiet).await.expect("the looking ends");
}
