//! The life of the gateway: load the text side of the model, listen, connect, serve, drain.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context as _;
use bus::{Bus, BusOptions};
use chassis::metrics::Registry;
use chassis::settings::{self, Engine, GatewaySettings, Settings};
use chassis::telemetry::{Telemetry, Tracer};
use chassis::{Tasks, identity};
use futures::FutureExt as _;
use protocol::GatewayId;
use scheduling::admission::AdmissionLimits;
use scheduling::route::Disaggregate;
use tokio::net::TcpListener;
use tracing::info;

use crate::api::app::{App, AppParts, Limits};
use crate::api::routes;
use crate::dispatch::backend::Connecting;
use crate::dispatch::fleet::Fleet;
use crate::dispatch::{self, DispatchLimits, Dispatcher};
use crate::observe::SloPolicy;
use crate::observe::metrics::{Exposition, HttpMetrics};
use crate::text::TextModel;

const SERVICE: &str = "gateway";
/// Longest export of the last spans.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest arrival of a request's body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Part of the drain time in which the last responses reach their clients.
const LAST_RESPONSES: Duration = Duration::from_secs(1);

/// Serves until `stop` resolves, then finishes the requests in flight.
///
/// Listens before it connects: without NATS, responses give the reason why the gateway is not ready.
pub async fn run(
    settings: Settings,
    stop: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let instance = identity::instance_id("");
    let listen = &settings.gateway.listen;
    let listener =
        TcpListener::bind(listen).await.with_context(|| format!("listen on {listen}"))?;
    let telemetry = Telemetry::start_or_warn(SERVICE, &instance, &settings.telemetry);
    let text = Arc::new(load_text(&settings).await?);
    info!(model = text.model(), address = %listener.local_addr()?, "listening");
    let http = HttpParts { listener, text, tracer: telemetry.tracer() };
    let served = serve(&settings, &instance, http, stop).await;
    telemetry.shutdown(FLUSH_TIMEOUT).await;
    served
}

/// Loads the text side of the model on a blocking thread: reading and hashing its files takes a
/// second.
async fn load_text(settings: &Settings) -> anyhow::Result<TextModel> {
    let model = settings.model.clone();
    if settings.engine == Engine::Simulated {
        return Ok(TextModel::simulated(model.name.as_deref()));
    }
    let path = model.path.clone().context("model.path is not set")?;
    let open = move || {
        let path = provision::hub::model(&path).context("get the model")?;
        TextModel::open(&path, &model).with_context(|| format!("open {}", path.display()))
    };
    tokio::task::spawn_blocking(open).await?
}

/// Returns every instrument of the gateway, for METRICS.md.
pub fn instruments() -> Registry {
    let mut registry = chassis::metrics::registry(SERVICE);
    HttpMetrics::new(&mut registry, "model");
    let trace = Tracer::off().timing_stages(&mut registry).continue_from(None);
    trace.stage(chassis::telemetry::names::stage::ROUTE, UNIX_EPOCH..UNIX_EPOCH, []);
    dispatch::Counters::default().register(&mut registry);
    registry
}

/// The parts that exist before the NATS connection.
struct HttpParts {
    listener: TcpListener,
    text: Arc<TextModel>,
    tracer: Tracer,
}

async fn serve(
    settings: &Settings,
    instance: &str,
    HttpParts { listener, text, tracer }: HttpParts,
    stop: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let mut registry = chassis::metrics::registry(SERVICE);
    let http_metrics = Arc::new(HttpMetrics::new(&mut registry, text.model()));
    let tracer = tracer.timing_stages(&mut registry);
    let metrics = Exposition::new(registry);
    let backend = Connecting::default();
    let mut tasks = Tasks::new();
    let app = App::new(AppParts {
        text: Arc::clone(&text),
        backend: Arc::new(backend.clone()),
        http_metrics,
        metrics: metrics.clone(),
        tracer: tracer.clone(),
        slo: SloPolicy::new(&settings.telemetry),
        record_contents: settings.telemetry.contents,
        limits: http_limits(&settings.gateway),
        links: settings.links.clone(),
        stop: tasks.stop(),
    });
    let router = routes::router(Arc::new(app));
    let http = chassis::http::serve(listener, router, tasks.stop());
    tasks.spawn("http", async move { Ok(http.await?) });

    let stop = stop.boxed().shared();
    let options = BusOptions {
        url: settings.nats.url.clone(),
        name: format!("{SERVICE}-{instance}"),
        connect_timeout: Duration::from_millis(settings.nats.connect_timeout_ms),
    };
    if let Some(bus) = Bus::connect_with_retry(options, stop.clone()).await {
        let gateway: GatewayId = instance.parse().context("name this gateway")?;
        let limits = dispatch_limits(settings);
        let dispatcher = Dispatcher::new(bus, Fleet::new(text.files()), gateway, limits);
        metrics.extend(|registry| dispatcher.register(registry));
        dispatcher.spawn(&mut tasks, tracer).await.context("follow tokens")?;
        backend.connected(dispatcher);
        info!(url = %settings.nats.url, "connected to NATS");
    }
    tasks.run_until(stop, settings.drain_timeout()).await
}

fn http_limits(settings: &GatewaySettings) -> Limits {
    Limits {
        request_timeout: Duration::from_millis(settings.request_timeout_ms),
        body_timeout: BODY_TIMEOUT,
        max_inflight: settings.max_inflight,
        max_body_bytes: settings.max_body_bytes,
        max_choices: u32::try_from(settings.max_choices).unwrap_or(u32::MAX),
    }
}

fn dispatch_limits(settings: &Settings) -> DispatchLimits {
    let default = DispatchLimits::default();
    let inflight_max = settings.gateway.max_inflight;
    DispatchLimits {
        admission: AdmissionLimits {
            inflight_max,
            queue_sequences_max: u32::try_from(settings.worker.queue_sequences).unwrap_or(u32::MAX),
        },
        drain: settings.drain_timeout().saturating_sub(LAST_RESPONSES),
        disaggregate: match settings.gateway.disaggregate {
            settings::Disaggregate::Always => Disaggregate::Always,
            settings::Disaggregate::Auto => Disaggregate::Auto,
            settings::Disaggregate::Never => Disaggregate::Never,
        },
        ..default
    }
}
