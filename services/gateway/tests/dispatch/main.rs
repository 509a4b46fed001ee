//! The dispatcher over a real nats-server, with workers that keep the protocol and lack a model.

#![allow(clippy::unwrap_used, reason = "what helps a test may fail like a test")]

mod worker;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bus::{Bus, BusOptions};
use chassis::Tasks;
use chassis::settings::TelemetrySettings;
use chassis::telemetry::{Caller, SpanKind, Telemetry, Trace, Tracer};
use gateway::dispatch::fleet::Fleet;
use gateway::dispatch::{
    DispatchLimits, Dispatcher, Generation, GenerationEvent, GenerationHandle,
};
use protocol::*;
use scheduling::admission::AdmissionLimits;
use testbed::{PATIENCE, eventually, soon};
use tokio::task::JoinSet;

use worker::{Script, Worker, files, token_at};

testbed::suite!();

struct Bench {
    dispatcher: Dispatcher,
    fleet: Fleet,
    bus: Bus,
    workers: JoinSet<()>,
    _tasks: Tasks,
    _server: testbed::NatsServer,
}

impl Bench {
    async fn start(limits: DispatchLimits) -> Self {
        let server = testbed::nats_server();
        let bus = connect(&server, "gateway").await;
        let gateway = "gateway-1".parse().unwrap();
        let fleet = Fleet::new(files());
        let dispatcher = Dispatcher::new(bus, fleet.clone(), gateway, limits);
        let mut tasks = Tasks::new();
        dispatcher.spawn(&mut tasks, Tracer::off()).await.unwrap();
        let bus = connect(&server, "workers").await;
        Self { dispatcher, fleet, bus, workers: JoinSet::new(), _tasks: tasks, _server: server }
    }

    async fn worker(&mut self, name: &str, role: Role, script: Script) -> Worker {
        Worker::start(&self.bus, name, role, script, &mut self.workers).await
    }

    /// One prefill and the named decode workers, seen by the gateway.
    async fn pair(&mut self, prefill: Script, decode: Script) -> (Worker, Worker) {
        let p = self.worker("p", Role::Prefill, prefill).await;
        let d = self.worker("d", Role::Decode, decode).await;
        self.sees(2).await;
        (p, d)
    }

    /// Waits until the gateway can place requests on this many workers.
    async fn sees(&self, workers: usize) {
        let seen = async || self.fleet.view().workers.len() == workers;
        eventually(&format!("{workers} workers are seen"), seen).await;
    }
}

async fn connect(server: &testbed::NatsServer, name: &str) -> Bus {
    let (url, name) = (server.url().into(), name.to_owned());
    Bus::connect(BusOptions { url, name, connect_timeout: PATIENCE }).await.unwrap()
}

fn generation(max_tokens: u32) -> Generation {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let request = NEXT.fetch_add(1, Ordering::Relaxed);
    Generation {
        request: RequestId(u128::from(request)),
        prompt: (0..40).map(|token| token + request as u32).collect(),
        sampling: Sampling::default(),
        stopping: Stopping { max_tokens, min_tokens: 0, stop_tokens: Vec::new() },
        top_logprobs: None,
        prompt_logprobs: None,
        scope: Scope::shared(),
        deadline: SystemTime::now() + PATIENCE,
        trace: Trace::off(),
        tokenized: SystemTime::now(),
        stages: None,
    }
}

async fn next(running: &mut GenerationHandle) -> Option<GenerationEvent> {
    soon("a piece comes", running.next()).await
}

/// Runs to the end: the tokens, and the failure if it ends with one.
async fn collect(running: &mut GenerationHandle) -> (Vec<TokenId>, Option<Refusal>) {
    let mut tokens = Vec::new();
    while let Some(piece) = next(running).await {
        match piece {
            GenerationEvent::Token(event) => {
                assert_eq!(event.opening.is_some(), tokens.is_empty(), "one opening, first");
                tokens.extend(event.token);
            }
            GenerationEvent::Failed(refusal) => return (tokens, Some(refusal)),
        }
    }
    (tokens, None)
}

fn expected(generation: &Generation) -> Vec<TokenId> {
    let count = generation.stopping.max_tokens;
    (0..count).map(|index| token_at(&generation.prompt, index)).collect()
}

async fn check_whole_answer(bench: &Bench, generation: Generation) {
    let expected = expected(&generation);
    let mut running = bench.dispatcher.start(generation).await.unwrap();
    assert_eq!(collect(&mut running).await, (expected, None));
}

async fn check_free(workers: &[&Worker]) {
    for worker in workers {
        let free = async || worker.seen.lock().unwrap().active.is_empty();
        eventually(&format!("{} is free", worker.id), free).await;
    }
}

#[testbed::test(multi_thread)]
async fn a_request_runs_on_two_workers_with_its_trace() {
    let mut bench = Bench::start(DispatchLimits::default()).await;
    let (p, d) = bench.pair(Script::default(), Script::default()).await;
    let generation = generation(20);
    let trace = generation.trace.traceparent();
    check_whole_answer(&bench, generation).await;
    let seen = [&p, &d].map(|worker| worker.seen.lock().unwrap().jobs[0].clone());
    assert_eq!(seen[0].0.leg, Leg::Prefill { decode: d.id.clone() });
    assert_eq!(seen[1].0.leg, Leg::Decode { prefill: p.id.clone() });
    assert_eq!(seen[0].0.sent_us, seen[1].0.sent_us, "both queue stages start at one moment");
    assert!(seen.iter().all(|(_, sent)| sent.as_deref() == Some(&trace)));
    check_free(&[&p, &d]).await;
    assert!([&p, &d].iter().all(|worker| worker.seen.lock().unwrap().cancels.is_empty()));
    eventually("nothing is in flight", async || bench.dispatcher.inflight() == 0).await;
}

#[testbed::test(multi_thread)]
async fn admit_and_route_touch_and_every_attempt_explains_itself() {
    let mut bench = Bench::start(DispatchLimits::default()).await;
    let fails = Script { fail_at: Some(3), ..Script::default() };
    let (_, d) = bench.pair(Script::default(), fails).await;
    let receiver = testbed::OtlpReceiver::start().await;
    let otlp_endpoint = Some(receiver.url());
    let settings = TelemetrySettings { otlp_endpoint, ..TelemetrySettings::default() };
    let telemetry = Telemetry::start("gateway", "gateway-1", &settings).unwrap();
    let start = SystemTime::now();
    let root = telemetry.tracer().root_span("POST", SpanKind::Server, Caller::default(), start);
    let trace = root.context();
    check_whole_answer(&bench, Generation { trace: trace.clone(), ..generation(8) }).await;
    root.end_at(SystemTime::now());

    let ended = receiver.wait_for(PATIENCE, |spans| {
        let published = spans.iter().filter(|span| span.name.starts_with("publish"));
        published.count() == 3 && spans.iter().any(|span| span.name == "POST")
    });
    let spans = ended.await.expect("the root and three jobs");
    let tree = testbed::TraceTree::new(spans);
    assert!(tree.orphans().is_empty() && tree.roots().len() == 1);
    let (admit, routes) = (tree.named("admit")[0], tree.named("route"));
    assert_eq!((routes.len(), admit.end_ns), (2, routes[0].start_ns));
    let sent_us = d.seen.lock().unwrap().jobs[0].0.sent_us;
    assert_eq!(routes[0].end_ns / 1_000, sent_us, "the workers' queue stages begin here");
    let attribute = |index: usize, key: &str| routes[index].attributes[key].clone();
    assert_eq!(attribute(0, "tandem.route.chosen"), "p>d");
    assert!(attribute(0, "tandem.route.candidates").starts_with("p>d: queue 0.0 + prefill"));
    assert_eq!(
        (attribute(1, "tandem.route.chosen"), attribute(1, "tandem.attempt")),
        ("p".into(), "1".into())
    );
    // The lost attempt between the two has a span of its own.
    let lost = tree.named("lost_attempt")[0];
    assert_eq!(lost.end_ns, routes[1].start_ns, "{tree}");
    assert_eq!(lost.attributes["tandem.lost.reason"], "as scripted");
    assert_eq!((lost.events[0].name.as_str(), lost.error.as_ref()), ("migrated", None));
    let jobs = tree.named("publish tandem.v1.worker.{worker}.job");
    assert!(jobs.iter().all(|job| job.kind == testbed::SpanKind::Producer), "{tree}");
    assert_eq!(jobs[0].attributes["tandem.answer"], "accepted");
    telemetry.shutdown(Duration::from_secs(2)).await;
}

#[testbed::test(multi_thread)]
async fn lost_and_repeated_tokens_reach_the_client_once_each() {
    let mut bench = Bench::start(DispatchLimits::default()).await;
    let lossy = Script { lose: BTreeSet::from([0, 3, 4, 19]), repeat: false, ..Script::default() };
    let repeats = Script { repeat: true, ..Script::default() };
    let d2 = Script { lose: BTreeSet::from([7]), repeat: true, ..Script::default() };
    bench.pair(lossy.clone(), lossy).await;
    check_whole_answer(&bench, generation(20)).await;
    bench.worker("d2", Role::Decode, d2).await;
    bench.worker("p2", Role::Prefill, repeats).await;
    bench.sees(4).await;
    for _ in 0..4 {
        check_whole_answer(&bench, generation(20)).await;
    }
}

#[testbed::test(multi_thread)]
async fn a_decode_worker_that_dies_is_replaced_in_mid_stream() {
    let mut bench = Bench::start(DispatchLimits::default()).await;
    let dies = Script { die_at: Some(9), ..Script::default() };
    let (p, _) = bench.pair(Script::default(), dies).await;
    let heir = bench.worker("e", Role::Decode, Script::default()).await;
    bench.sees(3).await;
    check_whole_answer(&bench, generation(30)).await;
    let jobs = heir.seen.lock().unwrap().jobs.clone();
    assert_eq!((jobs.len(), jobs[0].0.output.len(), jobs[0].0.key.attempt), (1, 9, Attempt(1)));
    check_free(&[&p, &heir]).await;
}

#[testbed::test(multi_thread)]
async fn a_dead_prefill_worker_takes_the_request_to_the_decode_worker() {
    let mut bench = Bench::start(DispatchLimits::default()).await;
    let dies = Script { die_at: Some(0), ..Script::default() };
    let (_, d) = bench.pair(dies, Script::default()).await;
    check_whole_answer(&bench, generation(12)).await;
    assert_eq!(d.seen.lock().unwrap().jobs.last().unwrap().0.leg, Leg::Whole);
    check_free(&[&d]).await;
}

#[testbed::test(multi_thread)]
async fn with_no_worker_left_the_stream_ends_with_a_clear_error() {
    let mut bench = Bench::start(DispatchLimits::default()).await;
    let fails = Script { fail_at: Some(5), ..Script::default() };
    let dies = Script { die_at: Some(5), ..Script::default() };
    let (p, d) = bench.pair(fails, dies).await;
    let generation = generation(12);
    let tokens = expected(&generation)[..5].to_vec();
    let mut running = bench.dispatcher.start(generation).await.unwrap();
    let (received, refusal) = collect(&mut running).await;
    assert_eq!(received, tokens);
    let refusal = refusal.expect("it failed");
    assert_eq!(refusal.class, ErrorClass::Retry);
    assert!(refusal.message.contains("no other worker"), "{refusal}");
    check_free(&[&p, &d]).await;
}

#[testbed::test(multi_thread)]
async fn refusals_come_before_the_stream_begins() {
    let mut bench = Bench::start(DispatchLimits::default()).await;
    let none = bench.dispatcher.start(generation(4)).await.err().expect("there is no worker");
    assert_eq!(none.class, ErrorClass::Retry);
    let full = Script { refuse: Some(ErrorClass::Overloaded), ..Script::default() };
    let (p, d) = bench.pair(Script::default(), full).await;
    // The decode worker is full: prefill does both.
    check_whole_answer(&bench, generation(4)).await;
    check_free(&[&p, &d]).await;
    let long = Generation { prompt: vec![1; 3_000].into(), ..generation(4) };
    let long = bench.dispatcher.start(long).await.err().expect("it fits nowhere");
    assert_eq!(long.class, ErrorClass::Invalid);
    p.die();
    // The first request notices that p does not respond.
    assert!(bench.dispatcher.start(generation(4)).await.is_err());
    let full = bench.dispatcher.start(generation(4)).await.err().expect("d is full");
    assert_eq!(full.class, ErrorClass::Overloaded, "{full}");
}

#[testbed::test(multi_thread)]
async fn a_client_that_leaves_frees_both_workers() {
    let mut bench = Bench::start(DispatchLimits::default()).await;
    let slow = Script { pace: Duration::from_millis(20), ..Script::default() };
    let (p, d) = bench.pair(slow.clone(), slow).await;
    let mut running = bench.dispatcher.start(generation(2_000)).await.unwrap();
    next(&mut running).await.unwrap();
    drop(running);
    check_free(&[&p, &d]).await;
    let mut running = bench.dispatcher.start(generation(2_000)).await.unwrap();
    while let Some(GenerationEvent::Token(event)) = next(&mut running).await {
        if event.index == 2 {
            break;
        }
    }
    running.stop(CancelReason::StopString);
    check_free(&[&p, &d]).await;
    let reasons: Vec<_> =
        d.seen.lock().unwrap().cancels.iter().map(|cancel| cancel.reason).collect();
    assert_eq!(reasons, [CancelReason::ClientGone, CancelReason::StopString]);
    eventually("nothing is in flight", async || bench.dispatcher.inflight() == 0).await;
}

#[testbed::test(multi_thread)]
async fn leases_are_renewed_and_the_deadline_ends_it() {
    let mut bench = Bench::start(DispatchLimits::default()).await;
    let slow = Script { pace: Duration::from_millis(100), ..Script::default() };
    let (p, d) = bench.pair(slow.clone(), slow).await;
    let deadline = SystemTime::now() + Duration::from_millis(2_500);
    let generation = Generation { deadline, ..generation(2_000) };
    let mut running = bench.dispatcher.start(generation).await.unwrap();
    let (tokens, refusal) = collect(&mut running).await;
    assert!(!tokens.is_empty());
    assert_eq!(refusal.expect("the deadline came").class, ErrorClass::Deadline);
    check_free(&[&p, &d]).await;
    assert!(d.seen.lock().unwrap().kept.values().any(|times| *times >= 1));
}

#[testbed::test(multi_thread)]
async fn a_client_that_does_not_read_is_given_up() {
    let mut bench =
        Bench::start(DispatchLimits { unread_max: 8, ..DispatchLimits::default() }).await;
    let (p, d) = bench.pair(Script::default(), Script::default()).await;
    let mut running = bench.dispatcher.start(generation(2_000)).await.unwrap();
    eventually("it is cancelled", async || !d.seen.lock().unwrap().cancels.is_empty()).await;
    assert_eq!(d.seen.lock().unwrap().cancels[0].reason, CancelReason::ClientGone);
    check_free(&[&p, &d]).await;
    // Buffered tokens are still in order.
    let (tokens, refusal) = collect(&mut running).await;
    assert_eq!(tokens.len(), 8);
    assert_eq!(refusal.map(|refusal| refusal.class), Some(ErrorClass::Cancelled));
}

#[testbed::test(multi_thread)]
async fn sixty_four_requests_at_once_and_not_one_more() {
    let admission = AdmissionLimits { inflight_max: 64, queue_sequences_max: 1_000 };
    let mut bench = Bench::start(DispatchLimits { admission, ..DispatchLimits::default() }).await;
    let slow = Script { pace: Duration::from_millis(2), ..Script::default() };
    let (p, d) = bench.pair(slow.clone(), slow).await;
    let mut started = Vec::new();
    for _ in 0..64 {
        let generation = generation(50);
        let expected = expected(&generation);
        started.push((bench.dispatcher.start(generation).await.unwrap(), expected));
        if started.len() == 64 {
            let more = bench.dispatcher.start(self::generation(50)).await;
            assert_eq!(more.err().map(|refusal| refusal.class), Some(ErrorClass::Overloaded));
        }
    }
    for (mut running, expected) in started {
        assert_eq!(collect(&mut running).await, (expected, None));
    }
    check_free(&[&p, &d]).await;
}
