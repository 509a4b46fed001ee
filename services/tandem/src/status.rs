//! `tandem status`: workers, store and gateway of a running system.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use bus::{Bus, BusOptions, Context, PresenceEvent};
use chassis::SettingsArgs;
use comfy_table::{Table, presets};
use protocol::{StepCost, StoreStatus, StoreStatusReply, WorkerState};
use serde_json::{Value, json};

use crate::up::Running;
use crate::{console, http, up};

const PRESENCE_LIMIT: Duration = Duration::from_secs(3);
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// The system, and the form of its status.
#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Polls workers, store and gateway once, and prints their status.
pub(crate) async fn run(args: StatusArgs) -> anyhow::Result<()> {
    let effective = args.settings.load()?;
    let Running { base_url: base, nats_url } = up::addresses(&effective);
    let bus = Bus::connect(BusOptions {
        url: nats_url.clone(),
        name: "tandem-status".to_owned(),
        connect_timeout: Duration::from_millis(effective.settings.nats.connect_timeout_ms),
    })
    .await
    .with_context(|| {
        format!(
            "no NATS at {nats_url}; start a system with `tandem up`, or name one with --nats URL"
        )
    })?;
    let context = Context::default();
    let question = StoreStatus {};
    let (workers, store, gateway) = tokio::join!(
        workers(&bus),
        bus.ask_store(&question, &context, ANSWER_LIMIT),
        gateway_readiness(&base),
    );
    let workers = workers?;
    if args.json {
        let report = json!({
            "workers": workers.values().map(worker_json).collect::<Vec<_>>(),
            "kvstore": store.map_or_else(|error| json!({ "error": error.to_string() }), store_json),
            "gateway": { "url": base, "ready": gateway.is_ok(), "reason": gateway.err() },
        });
        console::line(&format!("{report:#}"));
        return Ok(());
    }
    console::line(&worker_table(&workers));
    console::line(&match store {
        Ok(reply) => store_line(&reply),
        Err(error) => format!("kvstore  {error}"),
    });
    console::line(&match gateway {
        Ok(()) => format!("gateway  {base} is ready"),
        Err(reason) => format!("gateway  {base} {reason}"),
    });
    Ok(())
}

/// The workers that say they are there.
async fn workers(bus: &Bus) -> anyhow::Result<BTreeMap<String, WorkerState>> {
    let mut watch = bus.presence().watch();
    let mut workers = BTreeMap::new();
    let everybody = async {
        loop {
            match watch.next().await {
                PresenceEvent::Up(state) => drop(workers.insert(state.worker.to_string(), *state)),
                PresenceEvent::Gone(worker) => drop(workers.remove(worker.as_str())),
                PresenceEvent::Synced => return Ok(()),
                PresenceEvent::Interrupted { why } => anyhow::bail!("read the presence: {why}"),
            }
        }
    };
    tokio::time::timeout(PRESENCE_LIMIT, everybody).await.context("read the presence")??;
    Ok(workers)
}

async fn gateway_readiness(base: &str) -> Result<(), String> {
    let http = http::client_for(base).timeout(ANSWER_LIMIT).build();
    let http = http.map_err(|error| error.to_string())?;
    let answer = http.get(format!("{base}/ready")).send().await;
    let answer = answer.map_err(|_| "does not listen".to_owned())?;
    if answer.status().is_success() {
        return Ok(());
    }
    let status = answer.status();
    Err(format!("answers {status}: {}", answer.text().await.unwrap_or_default().trim()))
}

fn worker_json(state: &WorkerState) -> Value {
    let WorkerState { pool, speed, .. } = state;
    json!({
        "worker": state.worker.as_str(),
        "role": state.role.as_str(),
        "state": state.state_word(),
        "ready": state.ready,
        "draining": state.draining,
        "epoch": state.epoch,
        "prefill_share": state.prefill_share,
        "model": state.model,
        "fingerprint": state.fingerprint.to_string(),
        "context_tokens": state.context_tokens,
        "device": state.device,
        "queued_sequences": state.queued_sequences,
        "queued_tokens": state.queued_tokens,
        "running_sequences": state.running_sequences,
        "sequences_max": state.sequences_max,
        "pool": {
            "free": pool.free, "cached": pool.cached, "leased": pool.leased,
            "total": pool.total, "leaked": pool.leaked,
        },
        "speed": { "prefill": cost_json(&speed.prefill), "decode": cost_json(&speed.decode) },
        "health_address": state.health_address,
    })
}

/// `null` until the worker has measured it.
fn cost_json(cost: &StepCost) -> Value {
    let StepCost { step_us, item_us, pair_us, error, steps } = cost;
    if cost.is_measured() {
        json!({ "step_us": step_us, "item_us": item_us, "pair_us": pair_us,
    "error": error, "steps": steps })
    } else {
        Value::Null
    }
}

fn store_json(reply: StoreStatusReply) -> Value {
    let StoreStatusReply { streams, blocks, bytes, leased, evicted, caught_up } = reply;
    json!({ "streams": streams, "blocks": blocks, "bytes": bytes, "leased": leased,
            "evicted": evicted, "caught_up": caught_up })
}

fn worker_table(workers: &BTreeMap<String, WorkerState>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header([
        "worker", "role", "state", "model", "device", "running", "queued", "free", "cached",
        "leased", "leaked", "of pages", "prefill", "decode",
    ]);
    let speed = |cost: &StepCost, unit: &str| {
        if !cost.is_measured() {
            "-".to_owned()
        } else {
            let StepCost { step_us, item_us, error, .. } = cost;
            let (step_ms, item_ms) = (step_us / 1e3, item_us / 1e3);
            format!("{step_ms:.2} + {item_ms:.3} ms{unit} ± {:.0} %", error * 100.0)
        }
    };
    for (name, state) in workers {
        let WorkerState { pool, speed: fitted, .. } = state;
        table.add_row([
            name.clone(),
            state.role.as_str().to_owned(),
            state.state_word().to_owned(),
            state.model.clone(),
            state.device.clone(),
            format!("{}/{}", state.running_sequences, state.sequences_max),
            format!("{} ({} tokens)", state.queued_sequences, state.queued_tokens),
            pool.free.to_string(),
            pool.cached.to_string(),
            pool.leased.to_string(),
            pool.leaked.to_string(),
            pool.total.to_string(),
            speed(&fitted.prefill, "/tok"),
            speed(&fitted.decode, "/seq"),
        ]);
    }
    if workers.is_empty() { "no workers".to_owned() } else { table.to_string() }
}

fn store_line(reply: &StoreStatusReply) -> String {
    let state = if reply.caught_up { "ready" } else { "reads what is stored" };
    format!(
        "kvstore  {state}, {} blocks ({:.1} MiB) of {} models, {} leased, {} evicted",
        reply.blocks,
        reply.bytes as f64 / f64::from(1 << 20),
        reply.streams,
        reply.leased,
        reply.evicted,
    )
}
