//! One run, from its flags to its report.

mod args;
mod files;
mod repeat;
mod reporting;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::sync::mpsc;

use chassis::settings::TelemetrySettings;
use chassis::{Settings, Tasks, Telemetry};
use traces::units::Nanos;

use crate::plan::Plan;
use crate::plan::body::{BodyTemplate, Endpoint};
use crate::plan::messages::{History, Messages};
use crate::report::output::write_file;
use crate::report::server::ServerReport;
use crate::report::{Limits, Mark, Report, Workload};
use crate::send::client::{Client, ClientError, ModelInfo};
use crate::send::clock::Clock;
use crate::send::identity::Identity;
use crate::send::live::Live;
use crate::send::overhead;
use crate::send::pacer::Pace;
use crate::send::{OnFull, RunOutcome, Runner, SendOptions};
use crate::watch::annotate::{self, Annotations, Planned};
use crate::watch::exposition;
use crate::watch::progress::Progress;
use crate::watch::server::{self, Scraper};

use crate::plan::workload::{self, Load, ServerLimits};
pub use args::{RunArgs, SendingArgs, TargetArgs};
pub use files::PageArgs;
pub use reporting::ReportingArgs;

/// Time from the end of the preparations to the start of the schedule.
const LEAD: Duration = Duration::from_millis(200);
const PREFLIGHT_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Limit for the export of the last spans.
const EXPORT_LIMIT: Duration = Duration::from_secs(5);
/// Limit for a scrape in progress at the end.
const METRICS_LIMIT: Duration = Duration::from_secs(2);

/// A finished run.
pub struct Measurement {
    /// Plan of the run.
    pub plan: Arc<Plan>,
    /// Records of the run.
    pub outcome: RunOutcome,
    /// Report of the run.
    pub report: Report,
}

/// Makes a load, sends it and computes the report. The first message in `stop` ends the sending,
/// the second one cancels the requests in flight.
pub async fn measure(
    args: &RunArgs,
    live: Arc<Live>,
    stop: mpsc::Receiver<String>,
) -> Result<Measurement> {
    let identity = Identity::random(args.sending.trace_ratio);
    let client = Client::new(args.target.server(), CONNECT_TIMEOUT, &identity.run_id())?;
    let (model, unlisted) = choose_model(&client, &args.target).await?;
    let endpoint = args.target.endpoint;
    let server = ServerLimits { context_tokens: model.max_model_len, vocabulary: model.vocab_size };
    let mut load = workload::build(&args.load, &args.replay, endpoint, server)?;
    load.warnings.extend(unlisted);
    let template = template(&args.sending, &args.target, model.id.clone())?;
    let history = match (endpoint, args.load.messages) {
        (Endpoint::Chat, Messages::Turns) => History::of(&load.plan.requests),
        _ => History::default(),
    };
    let continued = history.continued();
    if continued > 0 {
        load.prompt_note
            .push_str(&format!(", {continued} of them with the turns before as messages"));
    }
    overhead::leave_room(&client, &template, &identity, continued > 0, &mut load).await;
    let workload = describe(args, &load, &model, &client);
    let Load { plan, prompts, warnings, .. } = load;
    for warning in &warnings {
        eprintln!("warning: {warning}");
    }
    let plan = Arc::new(plan);
    if let Some(path) = &args.reporting.emit_schedule {
        write_file(path, |out| plan.write(out))?;
    }
    let annotations = annotations(&args.sending)?;
    let telemetry = telemetry(&args.sending, client.run_id())?;
    let mut tasks = Tasks::new();
    if let Some(listen) = &args.sending.metrics_listen {
        exposition::start(listen, live.clone(), &mut tasks).await?;
    }
    let progress = Progress::new(args.reporting.progress, plan.requests.len());
    // Of its own, so that a scrape takes no connection of a request.
    let scraped = match args.target.metrics_server() {
        Some(server) => {
            let scraped = Client::new(server, CONNECT_TIMEOUT, client.run_id())?;
            let checked = server::check(&scraped).await;
            Some((scraped, checked))
        }
        None => None,
    };
    let clock = Clock::starting_in(LEAD);
    let scraper = scraped.map(|(client, checked)| Scraper::start(client, clock, checked));
    let pace = Pace { plan: plan.clone(), prompts, history, template, clock };
    let tracer = telemetry.is_exporting().then(|| telemetry.tracer());
    let options = send_options(args);
    let annotations = Annotations::start(annotations, clock);
    let runner = Runner { client, options, identity, live, tracer };
    let outcome = runner.run(pace, stop, progress).await?;
    let annotations = annotations.end().await;
    let server = match scraper {
        Some(scraper) => Some(scraper.end().await),
        None => None,
    };
    telemetry.shutdown(EXPORT_LIMIT).await;
    tasks.run_until(std::future::ready(()), METRICS_LIMIT).await?;
    let mut report = Report::new(workload, &plan, &outcome, &limits(args));
    report.marks = annotations.iter().map(Mark::of).collect();
    report.server = server.map(|metrics| ServerReport::of(metrics, &report.window));
    Ok(Measurement { plan, outcome, report })
}

/// Returns the model to request, with a warning if `--model` names one that the server does not
/// list: many accept aliases, or list nothing at all, and the requests tell.
async fn choose_model(client: &Client, target: &TargetArgs) -> Result<(ModelInfo, Option<String>)> {
    let listed = client.models(PREFLIGHT_TIMEOUT).await;
    let (wanted, unlisted) = match (&target.model, listed) {
        (None, Ok(models)) => {
            let first = models.into_iter().next();
            return Ok((first.context("the server lists no model: name one with --model")?, None));
        }
        (None, Err(error @ ClientError::Models { .. })) => {
            return Err(error).context("name the model with --model");
        }
        (Some(wanted), Err(error @ ClientError::Models { .. })) => (wanted, error.to_string()),
        (_, Err(error)) => return Err(error.into()),
        (Some(wanted), Ok(models)) => {
            if let Some(model) = models.iter().find(|model| model.id == *wanted) {
                return Ok((model.clone(), None));
            }
            let names: Vec<&str> = models.iter().map(|model| model.id.as_str()).collect();
            let names = names.join(", ");
            (wanted, format!("the server does not list the model {wanted:?}, only: {names}"))
        }
    };
    let model = ModelInfo { id: wanted.clone(), max_model_len: None, vocab_size: None };
    Ok((model, Some(format!("{unlisted}; its context is unknown, and the requests decide"))))
}

fn describe(args: &RunArgs, load: &Load, model: &ModelInfo, client: &Client) -> Workload {
    Workload {
        run_id: client.run_id().to_owned(),
        started_unix_ms: chassis::clock::now_ms(),
        url: client.base().to_owned(),
        endpoint: args.target.endpoint.path().to_owned(),
        model: model.id.clone(),
        context_tokens: model.max_model_len,
        source: load.source.clone(),
        prompts: load.prompt_note.clone(),
        seed: args.load.seed,
        schedule_digest: load.plan.digest(),
        command: repeat::command(std::env::args()),
        warnings: load.warnings.clone(),
    }
}

fn template(sending: &SendingArgs, target: &TargetArgs, model: String) -> Result<BodyTemplate> {
    let extra = match &sending.extra_body {
        None => serde_json::Map::new(),
        Some(text) => match serde_json::from_str(text) {
            Ok(serde_json::Value::Object(fields)) => fields,
            _ => bail!("--extra-body {text:?} is not a JSON object"),
        },
    };
    Ok(BodyTemplate {
        endpoint: target.endpoint,
        model,
        temperature: sending.temperature,
        ignore_eos: !sending.respect_eos,
        extra,
    })
}

fn annotations(sending: &SendingArgs) -> Result<Vec<Planned>> {
    let mut all = annotate::planned(&sending.at, true).context("--at TIME COMMAND")?;
    all.extend(annotate::planned(&sending.mark, false).context("--mark TIME TEXT")?);
    Ok(all)
}

/// Starts the export of spans, if there is an endpoint.
fn telemetry(sending: &SendingArgs, run_id: &str) -> Result<Telemetry> {
    let settings = TelemetrySettings {
        otlp_endpoint: sending.otlp_endpoint.clone().filter(|url| !url.is_empty()),
        sample_ratio: sending.trace_ratio,
        ..Settings::default().telemetry
    };
    Ok(Telemetry::start("loadgen", run_id, &settings)?)
}

fn send_options(args: &RunArgs) -> SendOptions {
    let duration = |nanos: Nanos| Duration::from_nanos(nanos.0.unsigned_abs());
    SendOptions {
        endpoint: args.target.endpoint,
        timeout: duration(args.sending.timeout),
        max_inflight: args.sending.max_inflight.map(|n| n as usize),
        on_full: args.sending.on_full,
        grace: duration(args.sending.grace),
        threads: args.sending.threads as usize,
    }
}

fn limits(args: &RunArgs) -> Limits {
    let reporting = &args.reporting;
    Limits {
        slos: reporting.slos.clone(),
        lag: reporting.lag_limit,
        drops_allowed: args.sending.on_full == OnFull::Drop,
        server_block_tokens: reporting.server_block,
        slowest: reporting.slowest,
        warmup: reporting.warmup,
    }
}
