//! The document behind `/fleet`, version 1.
//!
//! A version only gains fields. Times are milliseconds, counters count from the start of the gateway,
//! and a figure that was not measured yet is `null`.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use chassis::clock::epoch_ms;
use chassis::settings::LinksSettings;
use protocol::{PoolState, Role, StepCost, StoreStatusReply, WorkerState};
use serde::Serialize;
use serde_json::Value;

use crate::dispatch::backend::FleetStatus;
use crate::dispatch::history::{Change, ChangeKind};
use crate::observe::HttpMetrics;
use crate::observe::metrics::CountedHistogram;

/// The version of the document.
const VERSION: u32 = 1;

/// The facts behind one document.
pub(super) struct Facts<'a> {
    pub(super) now: SystemTime,
    /// Start of this gateway.
    pub(super) started: SystemTime,
    pub(super) model: &'a str,
    pub(super) context_tokens: u32,
    pub(super) max_inflight: usize,
    pub(super) readiness: Result<(), String>,
    pub(super) links: &'a LinksSettings,
    pub(super) status: &'a FleetStatus,
    pub(super) metrics: &'a HttpMetrics,
}

/// The document behind `GET /fleet`.
#[derive(Debug, Serialize)]
pub(super) struct FleetReport<'a> {
    version: u32,
    time_ms: u64,
    gateway: GatewayReport<'a>,
    links: LinksReport<'a>,
    workers: Vec<WorkerReport>,
    roles: RolesReport,
    #[serde(rename = "strangers")]
    other_models: usize,
    #[serde(rename = "unseen")]
    stale_reason: Option<&'a str>,
    changes: Vec<ChangeReport>,
    store: StoreReport,
    requests: RequestsReport,
}

#[derive(Debug, Serialize)]
struct GatewayReport<'a> {
    version: &'static str,
    model: &'a str,
    context_tokens: u32,
    ready: bool,
    reason: Option<&'a str>,
    max_inflight: usize,
    started_ms: u64,
}

#[derive(Debug, Serialize)]
struct LinksReport<'a> {
    jaeger: &'a str,
    grafana: &'a str,
}

/// One worker in a report about the fleet.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WorkerReport {
    worker: String,
    role: &'static str,
    prefill_share: f32,
    state: &'static str,
    started_ms: u64,
    age_ms: u64,
    model: String,
    device: String,
    context_tokens: u32,
    queued_sequences: u32,
    queued_tokens: u64,
    running_sequences: u32,
    sequences_max: u32,
    pool: PoolReport,
    speed: SpeedReport,
}

/// Pages of a worker's KV pool.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct PoolReport {
    free: u32,
    cached: u32,
    leased: u32,
    total: u32,
    leaked: u32,
}

/// A worker's measured speed; `null` before there was something to fit.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct SpeedReport {
    prefill_token_us: Option<f64>,
    prefill_error: Option<f32>,
    step_ms: Option<f64>,
    decode_error: Option<f32>,
}

#[derive(Debug, Serialize)]
struct RolesReport {
    prefill: RoleReport,
    decode: RoleReport,
}

/// The workers of one role together: the figures by which prefill and decode are compared.
#[derive(Debug, Serialize)]
struct RoleReport {
    workers: usize,
    ready: usize,
    queued_sequences: u64,
    queued_tokens: u64,
    running_sequences: u64,
    sequences_max: u64,
    pages_leased: u64,
    pages_cached: u64,
    pages_total: u64,
    backlog_ms: Option<f64>,
    step_ms: Option<f64>,
}

#[derive(Debug, Serialize)]
struct ChangeReport {
    at_ms: u64,
    worker: String,
    what: &'static str,
    from: Value,
    to: Value,
}

/// The store in a report about the fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum StoreReport {
    /// The store's reply.
    #[expect(missing_docs, reason = "the fields are those of the store's reply")]
    Known { streams: u32, blocks: u64, bytes: u64, leased: u64, evicted: u64, caught_up: bool },
    /// The store did not reply.
    Unknown {
        /// The reason.
        error: String,
    },
}

/// Counts since the start of the gateway. They are numbers with a fraction because JavaScript and
/// Prometheus have no others.
#[derive(Debug, Serialize)]
struct RequestsReport {
    running: f64,
    answered: BTreeMap<u16, f64>,
    prompt_tokens: f64,
    cached_tokens: f64,
    generation_tokens: f64,
    retries: f64,
    ttft_s: HistogramReport,
    itl_s: HistogramReport,
}

#[derive(Debug, Serialize)]
struct HistogramReport {
    count: f64,
    /// Each finite upper bound with the number of values up to it.
    buckets: Vec<[f64; 2]>,
}

impl<'a> FleetReport<'a> {
    /// Returns the document that says `facts`.
    pub(super) fn new(facts: &'a Facts<'a>) -> Self {
        let FleetStatus { fleet, store, retries } = facts.status;
        let states = || fleet.workers.iter().map(|(state, _)| state);
        Self {
            version: VERSION,
            time_ms: epoch_ms(facts.now),
            gateway: GatewayReport {
                version: env!("CARGO_PKG_VERSION"),
                model: facts.model,
                context_tokens: facts.context_tokens,
                ready: facts.readiness.is_ok(),
                reason: facts.readiness.as_ref().err().map(String::as_str),
                max_inflight: facts.max_inflight,
                started_ms: epoch_ms(facts.started),
            },
            links: LinksReport { jaeger: &facts.links.jaeger, grafana: &facts.links.grafana },
            workers: fleet
                .workers
                .iter()
                .map(|(state, age)| WorkerReport::new(state, *age))
                .collect(),
            roles: RolesReport {
                prefill: RoleReport::new(states().filter(|state| state.role == Role::Prefill)),
                decode: RoleReport::new(states().filter(|state| state.role == Role::Decode)),
            },
            other_models: fleet.other_models,
            stale_reason: fleet.stale_reason.as_deref(),
            changes: fleet.changes.iter().map(ChangeReport::new).collect(),
            store: StoreReport::new(store.clone()),
            requests: RequestsReport::new(facts.metrics, *retries),
        }
    }
}

impl WorkerReport {
    /// Returns the report of a worker that published `state` an `age` ago.
    pub fn new(state: &WorkerState, age: Duration) -> Self {
        let PoolState { free, cached, leased, total, leaked } = state.pool;
        Self {
            worker: state.worker.to_string(),
            role: state.role.as_str(),
            prefill_share: state.prefill_share,
            state: state.state_word(),
            started_ms: state.epoch,
            age_ms: age.as_millis() as u64,
            model: state.model.clone(),
            device: state.device.clone(),
            context_tokens: state.context_tokens,
            queued_sequences: state.queued_sequences,
            queued_tokens: state.queued_tokens,
            running_sequences: state.running_sequences,
            sequences_max: state.sequences_max,
            pool: PoolReport { free, cached, leased, total, leaked },
            speed: SpeedReport {
                prefill_token_us: prefill_token_us(state),
                prefill_error: measured(&state.speed.prefill).map(|cost| cost.error),
                step_ms: step_ms(state),
                decode_error: measured(&state.speed.decode).map(|cost| cost.error),
            },
        }
    }
}

/// Returns the cost if it has been measured.
fn measured(cost: &StepCost) -> Option<&StepCost> {
    Some(cost).filter(|cost| cost.is_measured())
}

/// Returns the time of a prompt token in a full step at the start of its prompt.
fn prefill_token_us(state: &WorkerState) -> Option<f64> {
    let tokens = state.step_tokens.max(1) as f32;
    measured(&state.speed.prefill)
        .map(|cost| f64::from(cost.us(1.0, tokens, tokens * tokens / 2.0) / tokens))
}

impl RoleReport {
    fn new<'a>(states: impl Iterator<Item = &'a WorkerState> + Clone) -> Self {
        let ready = || states.clone().filter(|state| state.ready && !state.draining);
        let sum = |of: fn(&WorkerState) -> u64| states.clone().map(of).sum::<u64>();
        Self {
            workers: states.clone().count(),
            ready: ready().count(),
            queued_sequences: sum(|state| state.queued_sequences.into()),
            queued_tokens: sum(|state| state.queued_tokens),
            running_sequences: sum(|state| state.running_sequences.into()),
            sequences_max: sum(|state| state.sequences_max.into()),
            pages_leased: sum(|state| state.pool.leased.into()),
            pages_cached: sum(|state| state.pool.cached.into()),
            pages_total: sum(|state| state.pool.total.into()),
            backlog_ms: mean(ready().map(backlog_ms)),
            step_ms: mean(ready().map(step_ms)),
        }
    }
}

/// Returns the predicted time of the prompts that wait at a worker.
fn backlog_ms(state: &WorkerState) -> Option<f64> {
    match state.queued_tokens {
        0 => Some(0.0),
        tokens => {
            let steps = tokens.div_ceil(u64::from(state.step_tokens.max(1))) as f32;
            let cost = measured(&state.speed.prefill)?;
            Some(f64::from(cost.us(steps, tokens as f32, state.queued_pairs as f32) / 1e3))
        }
    }
}

/// Returns the predicted time of a step with the sequences that generate now: their time per token.
fn step_ms(state: &WorkerState) -> Option<f64> {
    let running = state.running_sequences.max(1) as f32;
    let cost = measured(&state.speed.decode)?;
    Some(f64::from(cost.us(1.0, running, state.running_tokens as f32) / 1e3))
}

/// Returns the mean of the known values; `None` if there are none.
fn mean(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let (sum, count) =
        values.flatten().fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    (count > 0.0).then(|| sum / count)
}

impl ChangeReport {
    fn new(change: &Change) -> Self {
        let (what, from, to) = match change.kind {
            ChangeKind::Up(role) => ("up", Value::Null, role.as_str().into()),
            ChangeKind::Restarted => ("restarted", Value::Null, Value::Null),
            ChangeKind::Role { from, to } => ("role", from.as_str().into(), to.as_str().into()),
            ChangeKind::Share { from, to } => ("share", from.into(), to.into()),
            ChangeKind::Ready => ("ready", Value::Null, Value::Null),
            ChangeKind::NotReady => ("not ready", Value::Null, Value::Null),
            ChangeKind::Draining => ("draining", Value::Null, Value::Null),
            ChangeKind::Gone => ("gone", Value::Null, Value::Null),
        };
        Self { at_ms: epoch_ms(change.at), worker: change.worker.to_string(), what, from, to }
    }
}

impl StoreReport {
    /// Returns the report of the store's reply, or of the reason why there is none.
    pub fn new(reply: Result<StoreStatusReply, String>) -> Self {
        match reply {
            Ok(StoreStatusReply { streams, blocks, bytes, leased, evicted, caught_up }) => {
                Self::Known { streams, blocks, bytes, leased, evicted, caught_up }
            }
            Err(error) => Self::Unknown { error },
        }
    }
}

impl RequestsReport {
    fn new(metrics: &HttpMetrics, retries: u64) -> Self {
        Self {
            running: metrics.running.get() as f64,
            answered: metrics
                .responses_by_status()
                .into_iter()
                .map(|(status, count)| (status, count as f64))
                .collect(),
            prompt_tokens: metrics.prompt_tokens.get() as f64,
            cached_tokens: metrics.cached_tokens.get() as f64,
            generation_tokens: metrics.generation_tokens.get() as f64,
            retries: retries as f64,
            ttft_s: HistogramReport::new(&metrics.ttft_seconds),
            itl_s: HistogramReport::new(&metrics.itl_seconds),
        }
    }
}

impl HistogramReport {
    fn new(histogram: &CountedHistogram) -> Self {
        let snapshot = histogram.snapshot();
        let buckets = snapshot.buckets.iter().map(|&(bound, count)| [bound, count as f64]);
        Self { count: snapshot.count as f64, buckets: buckets.collect() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use chassis::Trace;
    use chassis::metrics::Registry;
    use protocol::Speed;
    use serde_json::json;
    use testbed::idle_worker;

    use super::*;
    use crate::dispatch::fleet::FleetView;

    fn fast(name: &str, role: Role, queued_tokens: u64) -> WorkerState {
        let cost =
            |step_us, item_us| StepCost { step_us, item_us, pair_us: 0.0, error: 0.25, steps: 9 };
        let speed = Speed { prefill: cost(0.0, 500.0), decode: cost(2_000.0, 1_000.0) };
        let pool = PoolState { free: 60, cached: 30, leased: 38, total: 128, leaked: 0 };
        WorkerState { speed, pool, queued_tokens, running_sequences: 3, ..idle_worker(name, role) }
    }

    fn metrics() -> HttpMetrics {
        HttpMetrics::new(&mut Registry::default(), "tiny")
    }

    fn written(status: &FleetStatus, metrics: &HttpMetrics) -> Value {
        let links = LinksSettings { jaeger: "http://j".to_owned(), grafana: String::new() };
        let facts = Facts {
            now: UNIX_EPOCH + Duration::from_millis(5_000),
            started: UNIX_EPOCH + Duration::from_millis(1_000),
            model: "tiny",
            context_tokens: 2_048,
            max_inflight: 256,
            readiness: Err("no worker is there".to_owned()),
            links: &links,
            status,
            metrics,
        };
        serde_json::to_value(FleetReport::new(&facts)).unwrap()
    }

    fn status(workers: Vec<WorkerState>) -> FleetStatus {
        let age = Duration::from_millis(250);
        let workers = workers.into_iter().map(|state| (state, age)).collect();
        FleetStatus {
            fleet: FleetView { workers, ..FleetView::default() },
            store: Err("silent".to_owned()),
            retries: 0,
        }
    }

    #[test]
    fn an_empty_fleet_is_reported_as_such() {
        let report = written(&status(Vec::new()), &metrics());
        assert_eq!((&report["version"], &report["time_ms"]), (&json!(1), &json!(5_000)));
        assert_eq!(report["workers"], json!([]));
        assert_eq!(report["roles"]["prefill"]["backlog_ms"], Value::Null);
        assert_eq!(report["gateway"]["reason"], "no worker is there");
        assert_eq!(report["store"], json!({ "error": "silent" }));
        let ttft_s = &report["requests"]["ttft_s"];
        assert_eq!(ttft_s["count"], 0.0);
        assert!(ttft_s["buckets"].as_array().unwrap().iter().all(|bucket| bucket[1] == 0.0));
        assert_eq!(report["links"], json!({ "jaeger": "http://j", "grafana": "" }));
    }

    #[test]
    fn roles_are_summed_and_priced_by_what_was_measured() {
        let unmeasured = idle_worker("p2", Role::Prefill);
        let draining = WorkerState { draining: true, ..fast("d2", Role::Decode, 0) };
        let report = written(
            &status(vec![
                fast("p1", Role::Prefill, 1_000),
                unmeasured,
                fast("d1", Role::Decode, 0),
                draining,
            ]),
            &metrics(),
        );
        let prefill = &report["roles"]["prefill"];
        assert_eq!((&prefill["workers"], &prefill["queued_tokens"]), (&json!(2), &json!(1_000)));
        // 1,000 tokens of 0.5 ms at one of two workers.
        assert_eq!(prefill["backlog_ms"], 250.0);
        let decode = &report["roles"]["decode"];
        assert_eq!((&decode["workers"], &decode["ready"]), (&json!(2), &json!(1)));
        assert_eq!((&decode["step_ms"], &decode["pages_leased"]), (&json!(5.0), &json!(76)));
        let [first, second, _, last] = &report["workers"].as_array().unwrap()[..] else {
            panic!("{report}");
        };
        assert_eq!((&first["state"], &last["state"]), (&json!("ready"), &json!("draining")));
        assert_eq!(second["speed"]["step_ms"], Value::Null);
        let speed = json!({
            "prefill_token_us": 500.0, "prefill_error": 0.25, "step_ms": 5.0, "decode_error": 0.25,
        });
        assert_eq!(first["speed"], speed);
        assert_eq!(first["age_ms"], 250);
    }

    #[test]
    fn changes_and_the_store_are_reported() {
        let at = UNIX_EPOCH + Duration::from_millis(7);
        let kind = ChangeKind::Role { from: Role::Prefill, to: Role::Decode };
        let mut status = status(Vec::new());
        status.fleet.changes.push(Change { at, worker: "w".parse().unwrap(), kind });
        status.store = Ok(StoreStatusReply {
            streams: 1,
            blocks: 2,
            bytes: 3,
            leased: 4,
            evicted: 5,
            caught_up: true,
        });
        let report = written(&status, &metrics());
        let expected = json!([{
            "at_ms": 7, "worker": "w", "what": "role", "from": "prefill", "to": "decode",
        }]);
        assert_eq!(report["changes"], expected);
        assert_eq!(
            (&report["store"]["bytes"], &report["store"]["caught_up"]),
            (&json!(3), &json!(true))
        );
    }

    #[test]
    fn counters_are_those_of_the_metrics() {
        let metrics = metrics();
        metrics.running.set(3);
        for _ in 0..7 {
            metrics.answered("/v1/completions", 200);
        }
        metrics.answered("/v1/chat/completions", 429);
        metrics.generation_tokens.inc_by(90);
        for ttft_ms in [99, 100, 100, 40, 50, 60, 101] {
            metrics.ttft_seconds.observe_duration(Duration::from_millis(ttft_ms), &Trace::off());
        }
        let status = FleetStatus { retries: 2, ..status(Vec::new()) };
        let requests = &written(&status, &metrics)["requests"];
        assert_eq!(
            (&requests["running"], &requests["answered"]["200"]),
            (&json!(3.0), &json!(7.0))
        );
        assert_eq!(
            (&requests["answered"]["429"], &requests["retries"]),
            (&json!(1.0), &json!(2.0))
        );
        assert_eq!(requests["generation_tokens"], 90.0);
        assert_eq!(requests["ttft_s"]["count"], 7.0);
        let buckets = requests["ttft_s"]["buckets"].as_array().unwrap();
        assert!(buckets.contains(&json!([0.1, 6.0])) && buckets.contains(&json!([0.15, 7.0])));
        assert_eq!(buckets.last(), Some(&json!([2560.0, 7.0])));
    }
}
