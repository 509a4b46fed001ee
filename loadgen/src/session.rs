//! Carries out one command of the command line.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use chassis::settings::TelemetrySettings;
use chassis::{Settings, Tasks, Telemetry};

use crate::annotate::{self, Planned};
use crate::body::BodyTemplate;
use crate::calibrate;
use crate::cli::{self, Cli, Command, RunArgs, SendingArgs, TargetArgs};
use crate::client::{Client, ModelInfo};
use crate::clock::Clock;
use crate::exposition;
use crate::identity::Identity;
use crate::live::Live;
use crate::overhead;
use crate::pacer::Pace;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::repeat;
use crate::report::output::{write_all, write_file};
use crate::report::{Limits, Report, Workload, lines, table};
use crate::run::{OnFull, RunOutcome, Runner, SendOptions};
use crate::units::Nanos;
use crate::workload::{self, Load, ServerLimits};

/// From the end of the preparations to the first intended time.
const LEAD: Duration = Duration::from_millis(200);
const PREFLIGHT_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last spans may take to be exported.
const EXPORT_LIMIT: Duration = Duration::from_secs(5);
/// How long a scrape that is under way may take at the end.
const METRICS_LIMIT: Duration = Duration::from_secs(2);

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// As asked.
    Good,
    /// The generator does not believe its own figures.
    Invalid,
    /// Not one request was answered.
    NothingCompleted,
    /// An SLO is missed at every rate, or a gate was not kept.
    Missed,
    /// The operator ended it.
    CutShort,
}

impl Ending {
    /// How the run of `report` ended.
    pub fn of(report: &Report) -> Self {
        if report.cut_short.is_some() {
            Self::CutShort
        } else if report.counts.completed == 0 {
            Self::NothingCompleted
        } else if report.verdict.valid {
            Self::Good
        } else {
            Self::Invalid
        }
    }

    /// The exit status.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Good => 0,
            Self::Invalid => 3,
            Self::NothingCompleted => 4,
            Self::Missed => 5,
            Self::CutShort => 130,
        }
    }
}

/// Carries out the command; the text for standard output and how it ended.
pub async fn execute(cli: Cli) -> Result<(String, Ending)> {
    match cli.command {
        Command::Run(args) => {
            let (stop, stopped) = mpsc::channel(4);
            let mut listener = JoinSet::new();
            listener.spawn(listen_for_stop(stop));
            run(&args, stopped).await
        }
        Command::Search(args) => {
            let (stop, stopped) = mpsc::channel(4);
            let mut listener = JoinSet::new();
            listener.spawn(listen_for_stop(stop));
            cli::search::execute(*args, stopped).await
        }
        Command::Compare(args) => cli::compare::execute(&args),
        Command::Report(args) => cli::report::execute(&args),
        Command::Trace(command) => cli::trace::execute(command),
        Command::Calibrate(args) => {
            let program = std::env::current_exe().context("where is this program?")?;
            calibrate::execute(&args, &program).await
        }
        Command::NullServer(args) => cli::null_server::execute(args).await,
    }
}

/// Reports each Ctrl-C, and each request to terminate, as a reason to stop.
async fn listen_for_stop(stop: mpsc::Sender<String>) {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
    loop {
        let reason = tokio::select! {
            Ok(()) = tokio::signal::ctrl_c() => "Ctrl-C",
            Some(()) = terminate.recv() => "SIGTERM",
            else => return,
        };
        if stop.send(reason.to_owned()).await.is_err() {
            return;
        }
    }
}

/// A run that is over.
pub struct Measurement {
    /// What was to be sent.
    pub plan: Arc<Plan>,
    /// What became of it.
    pub outcome: RunOutcome,
    /// What that says.
    pub report: Report,
}

/// Makes a load, sends it and reports. Each message in `stop` stops more of it.
pub async fn run(args: &RunArgs, stop: mpsc::Receiver<String>) -> Result<(String, Ending)> {
    let live = Arc::new(Live::new(args.reporting.slos.clone()));
    let Measurement { plan, outcome, report } = measure(args, live, stop).await?;
    write_all(&args.reporting.files(), &report)?;
    if let Some(path) = &args.reporting.jsonl {
        write_file(path, |out| lines::write(out, &plan, &outcome))?;
    }
    Ok((table::render(&report), Ending::of(&report)))
}

/// Makes a load and sends it, counted in `live`. Each message in `stop` stops more of it.
pub async fn measure(
    args: &RunArgs,
    live: Arc<Live>,
    stop: mpsc::Receiver<String>,
) -> Result<Measurement> {
    let identity = Identity::random(args.sending.trace_ratio);
    let TargetArgs { url, ca_file, headers, .. } = &args.target;
    let client =
        Client::new(url, ca_file.as_deref(), headers, CONNECT_TIMEOUT, &identity.run_id())?;
    let model = choose_model(&client, &args.target).await?;
    let endpoint = args.target.endpoint;
    let server = ServerLimits { context_tokens: model.max_model_len, vocabulary: model.vocab_size };
    let mut load = workload::build(&args.load, &args.replay, endpoint, server)?;
    let template = template(&args.sending, &args.target, model.id.clone())?;
    overhead::leave_room(&client, &template, &identity, &mut load).await;
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
    let clock = Clock::starting_in(LEAD);
    let pace = Pace { plan: plan.clone(), prompts, template, clock };
    let tracer = telemetry.is_exporting().then(|| telemetry.tracer());
    let options = send_options(args);
    let runner = Runner { client, options, identity, live, annotations, tracer };
    let outcome = runner.run(pace, stop, progress).await?;
    telemetry.shutdown(EXPORT_LIMIT).await;
    tasks.run_until(std::future::ready(()), METRICS_LIMIT).await?;
    let report = Report::new(workload, &plan, &outcome, &limits(args));
    Ok(Measurement { plan, outcome, report })
}

async fn choose_model(client: &Client, target: &TargetArgs) -> Result<ModelInfo> {
    let models = client.models(PREFLIGHT_TIMEOUT).await?;
    let names = || models.iter().map(|m| m.id.as_str()).collect::<Vec<_>>().join(", ");
    match &target.model {
        Some(wanted) => models
            .iter()
            .find(|model| model.id == *wanted)
            .cloned()
            .with_context(|| format!("the server has no model {wanted:?}, only: {}", names())),
        None => models.first().cloned().context("the server lists no model"),
    }
}

fn describe(args: &RunArgs, load: &Load, model: &ModelInfo, client: &Client) -> Workload {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Workload {
        run_id: client.run_id().to_owned(),
        started_unix_ms: since.as_millis() as u64,
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
        ignore_eos: !sending.heed_eos,
        extra,
    })
}

fn annotations(sending: &SendingArgs) -> Result<Vec<Planned>> {
    let mut all = annotate::planned(&sending.at, true).context("--at TIME COMMAND")?;
    all.extend(annotate::planned(&sending.mark, false).context("--mark TIME TEXT")?);
    Ok(all)
}

/// The export of the requests' spans, if it is asked for.
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
