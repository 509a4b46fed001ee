//! A system to be measured: real processes around simulated engines, and what they use.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bus::{Bus, BusOptions};
use chassis::SettingsArgs;
use provision::{NatsOptions, NatsServer};

use super::usage::{self, Usage};
use crate::console;
use crate::up::{Child, Common, Kind, base_url, roster, threads_each};

/// Forty processes on two busy cores.
const START_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(100);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// What is measured must not be what refuses: room for every request of the largest case.
const ROOM: [(&str, &str); 5] = [
    ("gateway.max_inflight", "2048"),
    ("worker.max_sequences", "512"),
    ("worker.queue_sequences", "1024"),
    ("worker.kv_pages", "16384"),
    ("telemetry.log", "warn"),
];

/// A running system. Dropping it ends it.
pub(super) struct Fleet {
    /// Base URL of its gateway.
    pub(super) base: String,
    monitor: String,
    http: reqwest::Client,
    services: Vec<Child>,
    /// After the services, which are its clients.
    _nats: NatsServer,
}

/// What nats-server has counted so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    /// Messages in and out.
    pub(super) messages: u64,
    /// Their bytes.
    pub(super) bytes: u64,
}

impl Fleet {
    /// Starts so many prefill and decode workers, and waits until all are ready.
    pub(super) async fn start(
        settings: &SettingsArgs,
        extra: &[(&str, &str)],
        workers: (usize, usize),
    ) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("find this program")?;
        let nats = tokio::task::spawn_blocking(|| {
            let server = provision::nats_server(&console::note).context("get nats-server")?;
            NatsServer::start(NatsOptions::new(server)).context("start a private nats-server")
        });
        let nats = nats.await.context("start a private nats-server")??;
        let listen = format!("127.0.0.1:{}", free_port()?);
        let assigned = |(key, value): &(&str, &str)| ["--set".to_owned(), format!("{key}={value}")];
        let mut flags: Vec<String> = ROOM.iter().chain(extra).flat_map(assigned).collect();
        for flag in settings.flags()? {
            flags.extend(["--set".to_owned(), format!("{}={}", flag.key, flag.value)]);
        }
        flags.extend(["--set".to_owned(), format!("gateway.listen={listen}")]);
        let model = settings.load()?.settings.model.path.map(|path| path.display().to_string());
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let common = Common {
            nats_url: nats.url(),
            model,
            model_name: None,
            threads: threads_each(cores, workers.0 + workers.1),
            suffix: String::new(),
            log: None,
            flags,
        };
        let services = roster(&common, workers.0, workers.1)
            .into_iter()
            .map(|service| Child::start(&program, &service.name, &service.arguments))
            .collect::<Result<Vec<_>, _>>()
            .context("start a service")?;
        let mut fleet = Self {
            base: base_url(&listen),
            monitor: nats.monitor_url(),
            http: reqwest::Client::builder().timeout(CONNECT_LIMIT).build()?,
            services,
            _nats: nats,
        };
        fleet.wait_until_ready(workers.0 + workers.1, &common.nats_url).await?;
        Ok(fleet)
    }

    async fn wait_until_ready(&mut self, workers: usize, nats: &str) -> anyhow::Result<()> {
        let bus = Bus::connect(BusOptions {
            url: nats.to_owned(),
            name: "tandem-bench".to_owned(),
            connect_timeout: CONNECT_LIMIT,
        });
        let bus = bus.await.context("connect to the private nats-server")?;
        let until = Instant::now() + START_LIMIT;
        loop {
            let up = crate::status::workers(&bus).await.unwrap_or_default();
            let ready = up.values().filter(|state| state.ready).count();
            let asked = self.http.get(format!("{}/ready", self.base)).send().await;
            if ready == workers && asked.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            if until <= Instant::now() {
                bail!("{ready} of {workers} workers ready after {} s", START_LIMIT.as_secs());
            }
            for service in &mut self.services {
                if service.has_ended() {
                    bail!("a service ended before it was ready");
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// What all processes have used so far, by what they are; this process is `client`.
    pub(super) fn usage(&self) -> anyhow::Result<BTreeMap<String, Usage>> {
        usage::of_descendants().context("read /proc")
    }

    /// What nats-server has carried so far.
    pub(super) async fn traffic(&self) -> anyhow::Result<Traffic> {
        let answer = self.http.get(format!("{}/varz", self.monitor)).send().await;
        let varz: serde_json::Value = answer.context("ask nats-server")?.json().await?;
        let count = |key: &str| varz[key].as_u64().with_context(|| format!("/varz has no {key}"));
        Ok(Traffic {
            messages: count("in_msgs")? + count("out_msgs")?,
            bytes: count("in_bytes")? + count("out_bytes")?,
        })
    }

    /// Ends it in good order: the gateway first.
    pub(super) async fn stop(mut self) {
        while let Some(service) = self.services.pop() {
            service.stop(STOP_LIMIT).await;
        }
        // Its clients are gone; waiting for it to end blocks.
        let _ended = tokio::task::spawn_blocking(move || drop(self)).await;
    }
}

/// The kinds of process in the order in which they are listed.
pub(super) fn kinds() -> [&'static str; 6] {
    let service = Kind::subcommand;
    [
        usage::CLIENT,
        service(Kind::Gateway),
        service(Kind::Prefill),
        service(Kind::Decode),
        service(Kind::Kvstore),
        usage::NATS,
    ]
}

fn free_port() -> anyhow::Result<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    Ok(listener.local_addr().context("find a free port")?.port())
}
