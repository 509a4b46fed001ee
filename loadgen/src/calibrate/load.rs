//! One step of the ramp: a load of streams, measured once all of them have started.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::mpsc;
use tokio::time::Instant;
use traces::gaps::Gaps;
use traces::quantile::Quantiles;
use traces::rate::Rate;
use traces::units::{Nanos, Range};

use super::child::Server;
use super::{Shape, Step, TTFT};
use crate::plan::arrivals::{Arrivals, Bounds, intended_times};
use crate::plan::body::{BodyTemplate, Endpoint};
use crate::plan::messages::History;
use crate::plan::prompt::{PromptForm, PromptMaker};
use crate::plan::vocabulary::Alphabet;
use crate::plan::{Phase, Plan};
use crate::send::client::{Client, ServerAddress};
use crate::send::clock::{Clock, ThreadTimes};
use crate::send::identity::Identity;
use crate::send::live::Live;
use crate::send::pacer::Pace;
use crate::send::record::RequestRecord;
use crate::send::{OnFull, RunOutcome, Runner, SendOptions};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const LEAD: Duration = Duration::from_millis(200);
const PROMPT_TOKENS: Range = Range { lo: 16, hi: 16 };
const TOKEN_IDS: Range = Range { lo: 1000, hi: 2000 };

/// CPU time at one moment.
pub(super) struct Cpu {
    at: Instant,
    threads: ThreadTimes,
    server_s: Option<f64>,
}

/// Use of the CPU between two moments, where `/proc` has it.
pub(super) struct CpuUse {
    /// Share of the time that the sending thread was on a CPU.
    pub(super) busy: Option<f64>,
    /// Share of the time that the sending thread was runnable without a CPU.
    starved: Option<f64>,
    /// CPU cores of the server.
    server_cores: Option<f64>,
}

impl Cpu {
    pub(super) fn now(server: &Server) -> Self {
        let (at, threads) = (Instant::now(), ThreadTimes::of_senders());
        Self { at, threads, server_s: server.cpu_seconds() }
    }

    /// Returns the use of the CPU until `later`.
    pub(super) fn until(&self, later: &Self) -> CpuUse {
        let span = later.at - self.at;
        let (busy, starved) = self.threads.until(&later.threads, span.as_nanos() as i64);
        let server = self.server_s.zip(later.server_s);
        let server_cores = server.map(|(from, to)| (to - from) / span.as_secs_f64());
        CpuUse { busy, starved, server_cores }
    }
}

/// Sends one load with the runner that measures servers.
pub(super) async fn drive(server: &Server, shape: &Shape) -> Result<Step> {
    let plan = Arc::new(plan(shape)?);
    let alphabet = Alphabet::of_range(TOKEN_IDS, 0)?;
    let prompts = PromptMaker::new(alphabet, PromptForm::Tokens, &plan.origin);
    let template = BodyTemplate {
        endpoint: Endpoint::Completions,
        model: "null".to_owned(),
        temperature: 0.0,
        ignore_eos: true,
        extra: serde_json::Map::new(),
    };
    let identity = Identity::random(0.0);
    let client = Client::new(ServerAddress::at(&server.url), CONNECT_TIMEOUT, &identity.run_id())?;
    let options = SendOptions {
        endpoint: Endpoint::Completions,
        timeout: shape.stream() + Duration::from_secs(30),
        max_inflight: None,
        on_full: OnFull::Queue,
        grace: Duration::ZERO,
        threads: 1,
    };
    let live = Arc::new(Live::default());
    let runner = Runner { client, options, identity, live, tracer: None };
    let clock = Clock::starting_in(LEAD);
    let pace = Pace { plan: plan.clone(), prompts, history: History::default(), template, clock };
    let (_stop, stopped) = mpsc::channel(1);
    let begin = Instant::from_std(clock.instant_of(nanos(shape.stream())));
    let watch = async {
        tokio::time::sleep_until(begin).await;
        let before = Cpu::now(server);
        tokio::time::sleep_until(begin + shape.hold).await;
        (before, Cpu::now(server))
    };
    let (outcome, (before, after)) = tokio::join!(runner.run(pace, stopped, ()), watch);
    Ok(figures(shape, &plan, &outcome?, &before.until(&after)))
}

fn nanos(span: Duration) -> i64 {
    span.as_nanos() as i64
}

/// Plans arrivals until the first streams end, and then for the measured time.
fn plan(shape: &Shape) -> Result<Plan> {
    let duration = Nanos(nanos(shape.stream() + shape.hold));
    let bounds = Bounds { requests: None, duration: Some(duration) };
    let arrivals = Arrivals { gaps: Gaps::Constant, rate: Rate::Flat(shape.rate()) };
    let times = intended_times(&arrivals, bounds, 0).context("cannot plan the load of a step")?;
    let tokens = Range { lo: shape.tokens, hi: shape.tokens };
    let mut plan = Plan::synthetic(&times, PROMPT_TOKENS, tokens, 0);
    plan.origin.blocks = plan.requests.len();
    for request in &mut plan.requests {
        if request.intended_ns < nanos(shape.stream()) {
            request.phase = Phase::Warmup;
        }
    }
    Ok(plan)
}

fn figures(shape: &Shape, plan: &Plan, outcome: &RunOutcome, cpu: &CpuUse) -> Step {
    let ms = |ns: i64| ns as f64 / 1e6;
    let window = nanos(shape.stream())..nanos(shape.stream() + shape.hold);
    let all = &outcome.records;
    let measured =
        || all.iter().filter(|record| plan.requests[record.index].phase == Phase::Measured);
    let came = all.iter().flat_map(|record| record.reply.tokens.iter());
    let tokens_per_s =
        came.filter(|at| window.contains(at)).count() as f64 / shape.hold.as_secs_f64();
    Step {
        streams: shape.streams,
        streams_peak: peak(all),
        tokens_per_s_asked: shape.token_rate(),
        tokens_per_s,
        lag_ms: Quantiles::of(measured().map(|record| ms(record.lag_ns())).collect()),
        ttft_beyond_ms: Quantiles::of(
            measured()
                .filter_map(|record| Some(ms(record.ttft_ns(record.dispatched_ns?)? - nanos(TTFT))))
                .collect(),
        ),
        itl_ms: Quantiles::of(measured().flat_map(|r| r.reply.tokens.gaps()).map(ms).collect()),
        failed: all.iter().filter(|record| !record.succeeded()).count(),
        busy: cpu.busy,
        starved: cpu.starved,
        server_cores: cpu.server_cores,
        cpu_us_per_token: cpu.busy.map(|busy| busy * 1e6 / tokens_per_s.max(1e-9)),
        faults: Vec::new(),
    }
    .judge()
}

/// Returns the largest number of requests in flight.
fn peak(records: &[RequestRecord]) -> usize {
    let begun = records.iter().filter_map(|record| record.dispatched_ns).map(|at| (at, 1_i64));
    let ended = records.iter().map(|record| (record.finished_ns, -1));
    let mut changes: Vec<(i64, i64)> = begun.chain(ended).collect();
    changes.sort_unstable();
    let in_flight = changes.iter().scan(0, |now, (_, change)| {
        *now += change;
        Some(*now)
    });
    in_flight.max().unwrap_or(0).max(0) as usize
}
