//! Polls every service for its readiness.

use std::collections::BTreeMap;
use std::time::Duration;

use bus::{Bus, BusOptions, Context, PresenceEvent};
use protocol::{NatsUrl, StoreStatus, StoreStatusReply, WorkerState};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::services::{Kind, Service};
use super::status_board::{Probe, Snapshot};
use crate::http;

const RECONNECT: Duration = Duration::from_secs(1);
const PERIOD: Duration = Duration::from_millis(200);
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// The services to poll, and their addresses.
#[derive(Debug, Clone)]
pub(super) struct ProbeTargets {
    /// The services.
    pub(super) services: Vec<Service>,
    /// The URL of NATS.
    pub(super) nats_url: NatsUrl,
    /// The timeout of one attempt to connect to it.
    pub(super) connect_timeout: Duration,
    /// Base URL of the gateway.
    pub(super) base_url: String,
}

/// Polls until the receiver of snapshots is dropped.
pub(super) async fn probe(targets: ProbeTargets, snapshots: watch::Sender<Snapshot>) {
    let Some(bus) = connect(&targets, &snapshots).await else { return };
    let http = http::direct().timeout(ANSWER_LIMIT).build().expect("the options are valid");
    let mut workers = BTreeMap::new();
    let mut presence = bus.presence().watch();
    let mut tick = tokio::time::interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = snapshots.closed() => return,
            event = presence.next() => note(&mut workers, event),
            _ = tick.tick() => {
                let snapshot = ask_all(&targets, &bus, &http, &workers).await;
                snapshots.send_replace(snapshot);
            }
        }
    }
}

/// Tries until there is a connection; `None` when the receiver of snapshots is dropped.
async fn connect(targets: &ProbeTargets, snapshots: &watch::Sender<Snapshot>) -> Option<Bus> {
    loop {
        let options = BusOptions {
            url: targets.nats_url.clone(),
            name: "tandem-up".to_owned(),
            connect_timeout: targets.connect_timeout,
        };
        let taken_ms = chassis::clock::now_ms();
        match Bus::connect(options).await {
            Ok(bus) => return Some(bus),
            Err(error) => {
                let url = &targets.nats_url;
                let why = chassis::error::chain(&error);
                let nats_problem = Some(format!("for nats at {url}: {why}"));
                let probes = BTreeMap::new();
                snapshots.send_replace(Snapshot { taken_ms, nats_problem, probes });
            }
        }
        tokio::select! {
            () = snapshots.closed() => return None,
            () = tokio::time::sleep(RECONNECT) => {}
        }
    }
}

type Workers = BTreeMap<String, WorkerState>;

fn note(workers: &mut Workers, event: PresenceEvent) {
    match event {
        PresenceEvent::Up(state) => {
            workers.insert(state.worker.to_string(), *state);
        }
        PresenceEvent::Gone(worker) => {
            workers.remove(worker.as_str());
        }
        PresenceEvent::Interrupted { .. } => workers.clear(),
        PresenceEvent::Synced => {}
    }
}

async fn ask_all(
    targets: &ProbeTargets,
    bus: &Bus,
    http: &reqwest::Client,
    workers: &Workers,
) -> Snapshot {
    let taken_ms = chassis::clock::now_ms();
    let question = StoreStatus {};
    let context = Context::default();
    let (store, gateway) = tokio::join!(
        bus.ask_store(&question, &context, ANSWER_LIMIT),
        ask_gateway(http, &targets.base_url),
    );
    let store = match store {
        Ok(reply) => about_store(&reply),
        Err(error) => Probe::Waiting(error.to_string()),
    };
    let probes = targets.services.iter().map(|service| match service.kind {
        Kind::Kvstore => store.clone(),
        Kind::Gateway => gateway.clone(),
        Kind::Prefill | Kind::Decode => about_worker(workers.get(&service.name)),
    });
    Snapshot { taken_ms, nats_problem: None, probes: probes.enumerate().collect() }
}

fn about_store(reply: &StoreStatusReply) -> Probe {
    if reply.caught_up {
        Probe::Ready { detail: format!("{} blocks stored", reply.blocks), epoch_ms: None }
    } else {
        Probe::Waiting("reads what is stored".to_owned())
    }
}

fn about_worker(state: Option<&WorkerState>) -> Probe {
    match state {
        None => Probe::Waiting("loads the model".to_owned()),
        Some(state) if !state.ready => Probe::Waiting("is here, not ready".to_owned()),
        Some(state) => {
            let WorkerState { model, device, pool, .. } = state;
            let detail = format!("{model} on {device}, {} KV pages", pool.total);
            Probe::Ready { detail, epoch_ms: Some(state.epoch) }
        }
    }
}

async fn ask_gateway(http: &reqwest::Client, base_url: &str) -> Probe {
    let answer = match http.get(format!("{base_url}/ready")).send().await {
        Err(_) => return Probe::Waiting("does not listen yet".to_owned()),
        Ok(answer) => answer,
    };
    if answer.status().is_success() {
        return Probe::Ready { detail: base_url.to_owned(), epoch_ms: None };
    }
    let status = answer.status();
    let said = answer.text().await.unwrap_or_default();
    Probe::Waiting(format!("{status}: {}", said.trim().chars().take(200).collect::<String>()))
}
