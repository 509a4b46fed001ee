//! The document behind `/fleet`, version 1: from what is known to JSON, and nothing else.
//!
//! Fields are only added within a version. Times are milliseconds, counters count from the start
//! of the gateway, and what was not measured yet is `null`.

use std::time::{SystemTime, UNIX_EPOCH};

use chassis::settings::LinksSettings;
use protocol::{Role, StepCost, StoreStatusReply, WorkerState};
use serde_json::{Value, json};

use super::counters;
use crate::dispatch::backend::Sight;
use crate::dispatch::history::{Change, What};

/// The version of the document.
const VERSION: u32 = 1;

/// All that goes into the document.
pub(super) struct Facts<'a> {
    pub(super) now: SystemTime,
    /// When this gateway started.
    pub(super) started: SystemTime,
    pub(super) model: &'a str,
    pub(super) context_tokens: u32,
    pub(super) max_inflight: usize,
    pub(super) readiness: Result<(), String>,
    pub(super) links: &'a LinksSettings,
    pub(super) sight: &'a Sight,
    /// The OpenMetrics text.
    pub(super) exposition: &'a str,
}

/// Writes the document.
pub(super) fn report(facts: &Facts<'_>) -> Value {
    let Sight { fleet, store } = facts.sight;
    let workers = || fleet.workers.iter().map(|(state, _)| state);
    json!({
        "version": VERSION,
        "time_ms": epoch_ms(facts.now),
        "gateway": {
            "version": env!("CARGO_PKG_VERSION"),
            "model": facts.model,
            "context_tokens": facts.context_tokens,
            "ready": facts.readiness.is_ok(),
            "reason": facts.readiness.as_ref().err(),
            "max_inflight": facts.max_inflight,
            "started_ms": epoch_ms(facts.started),
        },
        "links": { "jaeger": facts.links.jaeger, "grafana": facts.links.grafana },
        "workers": fleet.workers.iter().map(|(state, age)| {
            worker(state, age.as_millis() as u64)
        }).collect::<Vec<_>>(),
        "roles": {
            "prefill": role(workers().filter(|state| state.role == Role::Prefill)),
            "decode": role(workers().filter(|state| state.role == Role::Decode)),
        },
        "strangers": fleet.strangers,
        "unseen": fleet.unseen,
        "changes": fleet.changes.iter().map(change).collect::<Vec<_>>(),
        "store": store_json(store),
        "requests": requests(facts.exposition),
    })
}

fn epoch_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn worker(state: &WorkerState, age_ms: u64) -> Value {
    let WorkerState { pool, speed, .. } = state;
    json!({
        "worker": state.worker.as_str(),
        "role": state.role.as_str(),
        "prefill_share": state.prefill_share,
        "state": state.state_word(),
        "started_ms": state.epoch,
        "age_ms": age_ms,
        "model": state.model,
        "device": state.device,
        "context_tokens": state.context_tokens,
        "queued_sequences": state.queued_sequences,
        "queued_tokens": state.queued_tokens,
        "running_sequences": state.running_sequences,
        "sequences_max": state.sequences_max,
        "pool": {
            "free": pool.free, "cached": pool.cached, "leased": pool.leased,
            "total": pool.total, "leaked": pool.leaked,
        },
        "speed": {
            "prefill_token_us": prefill_token_us(state),
            "prefill_error": measured(&speed.prefill).map(|cost| cost.error),
            "step_ms": step_ms(state),
            "decode_error": measured(&speed.decode).map(|cost| cost.error),
        },
    })
}

/// Nothing is known until there was something to fit.
fn measured(cost: &StepCost) -> Option<&StepCost> {
    Some(cost).filter(|cost| cost.is_measured())
}

/// How long a prompt token takes in a full step, the first of its prompt.
fn prefill_token_us(state: &WorkerState) -> Option<f64> {
    let tokens = state.step_tokens.max(1) as f32;
    measured(&state.speed.prefill)
        .map(|cost| f64::from(cost.us(1.0, tokens, tokens * tokens / 2.0) / tokens))
}

/// The workers of one role together: what prefill and decode are compared by.
fn role<'a>(states: impl Iterator<Item = &'a WorkerState> + Clone) -> Value {
    let ready = || states.clone().filter(|state| state.ready && !state.draining);
    let sum = |of: fn(&WorkerState) -> u64| states.clone().map(of).sum::<u64>();
    json!({
        "workers": states.clone().count(),
        "ready": ready().count(),
        "queued_sequences": sum(|state| state.queued_sequences.into()),
        "queued_tokens": sum(|state| state.queued_tokens),
        "running_sequences": sum(|state| state.running_sequences.into()),
        "sequences_max": sum(|state| state.sequences_max.into()),
        "pages_leased": sum(|state| state.pool.leased.into()),
        "pages_cached": sum(|state| state.pool.cached.into()),
        "pages_total": sum(|state| state.pool.total.into()),
        "backlog_ms": mean(ready().map(backlog_ms)),
        "step_ms": mean(ready().map(step_ms)),
    })
}

/// How long the prompts that wait at a worker will take it.
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

/// How long a step with the sequences that generate there takes: their time per token.
fn step_ms(state: &WorkerState) -> Option<f64> {
    let running = state.running_sequences.max(1) as f32;
    let cost = measured(&state.speed.decode)?;
    Some(f64::from(cost.us(1.0, running, state.running_tokens as f32) / 1e3))
}

/// The mean of what is known; `None` when nothing is.
fn mean(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let (sum, count) =
        values.flatten().fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    (0.0 < count).then(|| sum / count)
}

fn change(change: &Change) -> Value {
    let (what, from, to) = match change.what {
        What::Up(role) => ("up", Value::Null, role.as_str().into()),
        What::Restarted => ("restarted", Value::Null, Value::Null),
        What::Role { from, to } => ("role", from.as_str().into(), to.as_str().into()),
        What::Share { from, to } => ("share", from.into(), to.into()),
        What::Ready => ("ready", Value::Null, Value::Null),
        What::NotReady => ("not ready", Value::Null, Value::Null),
        What::Draining => ("draining", Value::Null, Value::Null),
        What::Gone => ("gone", Value::Null, Value::Null),
    };
    json!({
        "at_ms": epoch_ms(change.at), "worker": change.worker.as_str(),
        "what": what, "from": from, "to": to,
    })
}

fn store_json(store: &Result<StoreStatusReply, String>) -> Value {
    match store {
        Ok(StoreStatusReply { streams, blocks, bytes, leased, evicted, caught_up }) => json!({
            "streams": streams, "blocks": blocks, "bytes": bytes, "leased": leased,
            "evicted": evicted, "caught_up": caught_up,
        }),
        Err(error) => json!({ "error": error }),
    }
}

fn requests(exposition: &str) -> Value {
    let total = |name| counters::total(exposition, name);
    json!({
        "running": total("vllm:num_requests_running"),
        "answered": counters::by_label(exposition, "tandem_gateway_responses_total", "status"),
        "prompt_tokens": total("vllm:prompt_tokens_total"),
        "cached_tokens": total("tandem_gateway_cached_prompt_tokens_total"),
        "generation_tokens": total("vllm:generation_tokens_total"),
        "retries": total("tandem_gateway_retries_total"),
        "ttft_s": histogram(exposition, "vllm:time_to_first_token_seconds"),
        "itl_s": histogram(exposition, "vllm:inter_token_latency_seconds"),
    })
}

/// `{"count": n, "buckets": [[upper bound, values up to it], …]}`
fn histogram(exposition: &str, name: &str) -> Value {
    let (buckets, count) = counters::histogram(exposition, name);
    let buckets: Vec<[f64; 2]> = buckets.into_iter().map(|(le, count)| [le, count]).collect();
    json!({ "count": count, "buckets": buckets })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use protocol::{PoolState, Speed};

    use super::*;
    use crate::dispatch::fleet::{FleetView, test_state};

    fn fast(name: &str, role: Role, queued_tokens: u64) -> WorkerState {
        let cost =
            |step_us, item_us| StepCost { step_us, item_us, pair_us: 0.0, error: 0.25, steps: 9 };
        let speed = Speed { prefill: cost(0.0, 500.0), decode: cost(2_000.0, 1_000.0) };
        let pool = PoolState { free: 60, cached: 30, leased: 38, total: 128, leaked: 0 };
        WorkerState { speed, pool, queued_tokens, running_sequences: 3, ..test_state(name, role) }
    }

    fn written(sight: &Sight, exposition: &str) -> Value {
        let links = LinksSettings { jaeger: "http://j".to_owned(), grafana: String::new() };
        report(&Facts {
            now: UNIX_EPOCH + Duration::from_millis(5_000),
            started: UNIX_EPOCH + Duration::from_millis(1_000),
            model: "tiny",
            context_tokens: 2_048,
            max_inflight: 256,
            readiness: Err("no worker is there".to_owned()),
            links: &links,
            sight,
            exposition,
        })
    }

    fn sight(workers: Vec<WorkerState>) -> Sight {
        let age = Duration::from_millis(250);
        let workers = workers.into_iter().map(|state| (state, age)).collect();
        Sight {
            fleet: FleetView { workers, ..FleetView::default() },
            store: Err("silent".to_owned()),
        }
    }

    #[test]
    fn nobody_there_is_said_as_such() {
        let report = written(&sight(Vec::new()), "");
        assert_eq!((&report["version"], &report["time_ms"]), (&json!(1), &json!(5_000)));
        assert_eq!(report["workers"], json!([]));
        assert_eq!(report["roles"]["prefill"]["backlog_ms"], Value::Null);
        assert_eq!(report["gateway"]["reason"], "no worker is there");
        assert_eq!(report["store"], json!({ "error": "silent" }));
        assert_eq!(report["requests"]["ttft_s"], json!({ "count": 0.0, "buckets": [] }));
        assert_eq!(report["links"], json!({ "jaeger": "http://j", "grafana": "" }));
    }

    #[test]
    fn roles_are_summed_and_priced_by_what_was_measured() {
        let unmeasured = test_state("p2", Role::Prefill);
        let draining = WorkerState { draining: true, ..fast("d2", Role::Decode, 0) };
        let report = written(
            &sight(vec![
                fast("p1", Role::Prefill, 1_000),
                unmeasured,
                fast("d1", Role::Decode, 0),
                draining,
            ]),
            "",
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
    fn changes_and_the_store_are_told() {
        let at = UNIX_EPOCH + Duration::from_millis(7);
        let what = What::Role { from: Role::Prefill, to: Role::Decode };
        let mut sight = sight(Vec::new());
        sight.fleet.changes.push(Change { at, worker: "w".parse().unwrap(), what });
        sight.store = Ok(StoreStatusReply {
            streams: 1,
            blocks: 2,
            bytes: 3,
            leased: 4,
            evicted: 5,
            caught_up: true,
        });
        let report = written(&sight, "");
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
        let exposition = "vllm:num_requests_running{model_name=\"m\"} 3\n\
            tandem_gateway_responses_total{endpoint=\"/a\",status=\"200\"} 7\n\
            vllm:generation_tokens_total{model_name=\"m\"} 90\n\
            vllm:time_to_first_token_seconds_bucket{le=\"0.1\",model_name=\"m\"} 6\n\
            vllm:time_to_first_token_seconds_bucket{le=\"+Inf\",model_name=\"m\"} 7\n\
            vllm:time_to_first_token_seconds_count{model_name=\"m\"} 7\n";
        let requests = &written(&sight(Vec::new()), exposition)["requests"];
        assert_eq!(
            (&requests["running"], &requests["answered"]["200"]),
            (&json!(3.0), &json!(7.0))
        );
        assert_eq!(requests["generation_tokens"], 90.0);
        assert_eq!(requests["ttft_s"], json!({ "count": 7.0, "buckets": [[0.1, 6.0]] }));
    }
}
