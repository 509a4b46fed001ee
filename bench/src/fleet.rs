//! A system to be measured: `tandem up` around simulated engines, and the resources that it uses.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use chassis::SettingsArgs;
use provision::{NatsOptions, NatsServer};
use rustls::crypto::ring;
use serde_json::Value;
use tokio::process::{Child, Command};

use super::usage::{self, Usage};
use crate::console;

/// Enough for forty processes on two busy cores.
const START_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(250);
const HTTP_TIMEOUT: Duration = Duration::from_secs(5);

/// Limits under which the system refuses no request of the largest case.
const ROOM: [(&str, &str); 5] = [
    ("gateway.max_inflight", "2048"),
    ("worker.max_sequences", "512"),
    ("worker.queue_sequences", "1024"),
    ("worker.kv_pages", "16384"),
    ("telemetry.log", "warn"),
];

/// The kinds of process, in the order in which reports list them.
pub(super) const KINDS: [&str; 6] =
    [usage::CLIENT, "gateway", "prefill", "decode", "kvstore", usage::NATS];

/// A running system. It ends when this is dropped: `tandem up` holds the other end of a pipe.
pub(super) struct Fleet {
    /// Base URL of its gateway.
    pub(super) base: String,
    program: PathBuf,
    monitor: String,
    http: reqwest::Client,
    up: Child,
    // Dropped after its clients.
    _nats: NatsServer,
}

/// The counters of nats-server.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    /// Messages in and out.
    pub(super) messages: u64,
    /// Their bytes.
    pub(super) bytes: u64,
}

impl Fleet {
    /// Starts `workers` prefill workers and as many decode workers, and waits until all are ready.
    pub(super) async fn start(
        settings: &SettingsArgs,
        extra: &[(&str, &str)],
        workers: usize,
    ) -> anyhow::Result<Self> {
        let program = tandem()?;
        let nats = tokio::task::spawn_blocking(|| {
            let server = provision::nats_server(&console::note).context("get nats-server")?;
            NatsServer::start(NatsOptions::new(server)).context("start a private nats-server")
        });
        let nats = nats.await.context("start a private nats-server")??;
        let listen = format!("127.0.0.1:{}", free_port()?);
        let count = workers.to_string();
        let mut up = Command::new(&program);
        up.args(["up", "--tethered", "--prefill", &count, "--decode", &count]);
        for (key, value) in ROOM.iter().chain(extra) {
            up.args(["--set", &format!("{key}={value}")]);
        }
        for flag in settings.flags()? {
            up.args(["--set", &format!("{}={}", flag.key, flag.value)]);
        }
        up.args(["--nats", &nats.url(), "--listen", &listen]);
        let up = up.stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        let url = nats.url();
        let mut status = Command::new(&program);
        status.args(["status", "--json", "--nats", &url, "--listen", &listen]);
        // Fails only when another client of this process has installed it before.
        let _ = ring::default_provider().install_default();
        let mut fleet = Self {
            base: format!("http://{listen}"),
            monitor: nats.monitor_url(),
            http: reqwest::Client::builder().no_proxy().timeout(HTTP_TIMEOUT).build()?,
            up: up.with_context(|| format!("start {}", program.display()))?,
            program,
            _nats: nats,
        };
        fleet.wait_until_ready(status, 2 * workers).await?;
        Ok(fleet)
    }

    async fn wait_until_ready(
        &mut self,
        mut status: Command,
        workers: usize,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let output = status.output().await.context("run `tandem status`")?;
            let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            let states = report["workers"].as_array().map_or(&[][..], Vec::as_slice);
            let ready = states.iter().filter(|state| state["ready"] == true).count();
            if ready == workers && report["gateway"]["ready"] == true {
                return Ok(());
            }
            if let Some(status) = self.up.try_wait().context("watch `tandem up`")? {
                bail!("`tandem up` ended before it was ready ({status}); its lines are above");
            }
            if Instant::now() >= deadline {
                bail!("{ready} of {workers} workers are ready after {} s", START_LIMIT.as_secs());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Returns the resources that all processes have used so far, by kind; this process is
    /// [`usage::CLIENT`].
    pub(super) fn usage(&self) -> anyhow::Result<BTreeMap<String, Usage>> {
        usage::of_descendants(&self.program).context("read /proc")
    }

    /// Returns the counters of nats-server.
    pub(super) async fn traffic(&self) -> anyhow::Result<Traffic> {
        let answer = self.http.get(format!("{}/varz", self.monitor)).send().await;
        let varz: Value = answer.context("ask nats-server")?.json().await?;
        let count = |key: &str| varz[key].as_u64().with_context(|| format!("/varz has no {key}"));
        Ok(Traffic {
            messages: count("in_msgs")? + count("out_msgs")?,
            bytes: count("in_bytes")? + count("out_bytes")?,
        })
    }

    /// Ends the system in good order, which `tandem up` does when its standard input ends.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        drop(self.up.stdin.take());
        if tokio::time::timeout(STOP_LIMIT, self.up.wait()).await.is_err() {
            self.up.kill().await.context("kill `tandem up`")?;
        }
        // nats-server has lost its clients; waiting for its end blocks.
        tokio::task::spawn_blocking(move || drop(self)).await.context("stop nats-server")
    }
}

/// Returns the `tandem` that lies beside this program.
fn tandem() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("find this program")?;
    let program = own.with_file_name("tandem");
    if !program.is_file() {
        bail!("{} is missing: build it with `cargo build -p tandem`", program.display());
    }
    Ok(program)
}

fn free_port() -> anyhow::Result<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    Ok(listener.local_addr().context("find a free port")?.port())
}
