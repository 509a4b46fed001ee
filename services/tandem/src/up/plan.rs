//! Decides on everything before anything is started: model, bus, services, addresses.

use std::time::Duration;

use anyhow::{Context as _, bail};
use chassis::settings::{Engine, Flag, ModelSettings};
use chassis::{Effective, Settings};
use modelfile::ModelFile;
use protocol::NatsUrl;
use provision::{Cache, NatsOptions, NatsServer};

use super::services::{Common, Service, WorkerCounts, services, threads_each};
use super::status_board::line;
use super::store_dir::StoreDir;
use crate::{console, fetch_model};

/// The time that a service may take beyond its own drain timeout before it is killed.
const STOP_MARGIN: Duration = Duration::from_secs(3);

/// The log filter of services unless the user chose one: warnings, and the progress of loading.
const QUIET: &str = "warn,wgpu_hal::gles=off,engine::worker::boot=info";
/// A model whose answers make sense, for those who tried the built-in one.
const REAL_MODEL: &str = "hf:Qwen/Qwen2.5-1.5B-Instruct-GGUF:qwen2.5-1.5b-instruct-q4_k_m.gguf";
const DEFAULT_NAME: &str = "SmolLM2-135M-Instruct";

/// The services to run, with their addresses.
#[derive(Debug)]
pub(super) struct Plan {
    /// The services in the order in which they are started.
    pub(super) services: Vec<Service>,
    /// The URL of NATS.
    pub(super) nats_url: NatsUrl,
    /// The timeout of one attempt to connect to it.
    pub(super) connect_timeout: Duration,
    /// Base URL of the gateway, as seen from this machine.
    pub(super) base_url: String,
    /// The time that a service may take to stop.
    pub(super) stop_limit: Duration,
    is_built_in: bool,
    // Runs as long as the plan, and is dropped before its directory is.
    _nats: Option<PrivateNats>,
}

impl Plan {
    /// Fetches what is missing and starts the private nats-server.
    pub(super) fn make(
        effective: &Effective,
        flags: &[Flag],
        workers: WorkerCounts,
    ) -> anyhow::Result<Self> {
        let settings = &effective.settings;
        let is_default = |key: &str| effective.origin(key) == Some("default");
        let model = match settings.engine {
            Engine::Simulated => None,
            Engine::Model => Some(model_path(effective)?),
        };
        let found = model.as_deref().unwrap_or("simulated, none is needed");
        console::line(&line("model", "found", found));
        if settings.engine == Engine::Model
            && let Some(sign) = model::unused_graphics()
        {
            let advice = format!(
                "{sign}, but this program was built without graphics: \
                 cargo run -p tandem --features wgpu -- up"
            );
            console::line(&line("graphics", "unused", &advice));
        }
        let nats = if is_default("nats.url") { Some(private_nats()?) } else { None };
        let nats_url = nats
            .as_ref()
            .map_or_else(|| settings.nats.url.clone(), |nats| nats.server.url().into());
        let owner = if nats.is_some() { "private" } else { "yours" };
        console::line(&line("nats", "found", &format!("{nats_url} ({owner})")));

        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = match settings.threads {
            0 => threads_each(cores, workers.prefill + workers.decode),
            given => given,
        };
        let suffix =
            if nats.is_some() { String::new() } else { format!("-{}", std::process::id()) };
        let common = Common {
            nats_url: nats_url.clone(),
            model_name: model.as_ref().and(default_name(settings)).map(str::to_owned),
            model,
            threads,
            suffix,
            log: is_default("telemetry.log").then(|| QUIET.to_owned()),
            // The URL of NATS goes another way, see `Service::nats_url`.
            flags: flags
                .iter()
                .filter(|flag| flag.key != "nats.url")
                .flat_map(|flag| ["--set".to_owned(), format!("{}={}", flag.key, flag.value)])
                .collect(),
        };
        Ok(Self {
            services: services(&common, workers),
            nats_url,
            connect_timeout: Duration::from_millis(settings.nats.connect_timeout_ms),
            base_url: base_url(&settings.gateway.listen),
            stop_limit: settings.drain_timeout() + STOP_MARGIN,
            is_built_in: settings.engine == Engine::Model && settings.model.path.is_none(),
            _nats: nats,
        })
    }

    /// Returns what to try once everything is ready.
    pub(super) fn invitation(&self) -> String {
        let Self { base_url, .. } = self;
        let program = std::env::args().next().unwrap_or_else(|| "tandem".to_owned());
        let built_in = if self.is_built_in {
            format!(
                "The built-in model is a smoke test of 135 million parameters: its answers are \
                 often wrong. A real one:\n\n  {program} up --model {REAL_MODEL}\n\n"
            )
        } else {
            String::new()
        };
        format!(
            "\nReady: {base_url}\n\n  \
             {base_url}/ in a browser: the fleet, and a chat\n\n  \
             curl -N {base_url}/v1/chat/completions -H 'content-type: application/json' -d '{{\n    \
             \"messages\": [{{\"role\": \"user\", \"content\": \"Who are you?\"}}],\n    \
             \"temperature\": 0.2, \"top_p\": 0.9, \"max_tokens\": 200, \"stream\": true}}'\n\n  \
             {program} chat\n  {program} status\n\n{built_in}Ctrl-C ends everything.\n"
        )
    }
}

fn model_path(effective: &Effective) -> anyhow::Result<String> {
    let path = match &effective.settings.model.path {
        Some(path) => fetch_model::local(path).context("get the model")?,
        None => provision::smollm2(&console::line)
            .context("get the default model; name one that you have with --model PATH")?,
    };
    // Services are started in the same directory, but a clear answer now is worth a look. Links stay
    // as they are: beside the link lie a model's other files, not beside what it leads to.
    if let Err(error) = path.metadata() {
        bail!("model {}: {error}", path.display());
    }
    // Opened for its errors: the services would find them one by one, after everything is started.
    if let Err(error) = ModelFile::open(&path) {
        bail!("cannot serve {}: {}", path.display(), chassis::error::chain(&error));
    }
    let path = std::path::absolute(&path).context("find the model")?;
    Ok(path.display().to_string())
}

/// Returns the known name of the default model: its file has an odd one.
fn default_name(settings: &Settings) -> Option<&'static str> {
    let ModelSettings { path, name, .. } = &settings.model;
    (path.is_none() && name.is_none()).then_some(DEFAULT_NAME)
}

/// A private nats-server. Fields are dropped in this order.
#[derive(Debug)]
struct PrivateNats {
    server: NatsServer,
    _store: StoreDir,
}

fn private_nats() -> anyhow::Result<PrivateNats> {
    let program = provision::nats_server(&console::line)
        .context("get nats-server; name one that runs with --nats URL")?;
    let root = Cache::locate()?.root().join("nats");
    let store = StoreDir::claim(&root).with_context(|| {
        format!("claim a folder in {}; TANDEM_CACHE names another", root.display())
    })?;
    let options = NatsOptions { store: Some(store.path().to_owned()), ..NatsOptions::new(program) };
    let server = NatsServer::start(options).context("start a private nats-server")?;
    Ok(PrivateNats { server, _store: store })
}

/// Returns the base URL of a server that listens at `listen`, as seen from this machine.
pub(crate) fn base_url(listen: &str) -> String {
    let (host, port) = listen.rsplit_once(':').unwrap_or((listen, "80"));
    let host = match host {
        "0.0.0.0" | "[::]" | "" => "127.0.0.1",
        named => named,
    };
    format!("http://{host}:{port}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_address_is_called_by_loopback() {
        assert_eq!(base_url("0.0.0.0:8080"), "http://127.0.0.1:8080");
        assert_eq!(base_url("[::]:8080"), "http://127.0.0.1:8080");
        assert_eq!(base_url("[::1]:8080"), "http://[::1]:8080");
        assert_eq!(base_url("host:1"), "http://host:1");
    }
}
