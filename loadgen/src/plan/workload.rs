//! The load of a run, made from the flags: its plan and its prompts.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::{Context, Result, bail};
use traces::gaps::Gaps;
use traces::quantum::Dequantize;
use traces::rate::Rate;
use traces::shape::{Shape, Shaped, shape};
use traces::units::{Nanos, Range, Window};
use traces::{ReadOptions, Trace, edit, summary};

use crate::plan::args::{ArrivalKind, LoadArgs, PromptAs, ReplayArgs, ShapingArgs, Think};
use crate::plan::arrivals::{Arrivals, Bounds, intended_times};
use crate::plan::body::Endpoint;

use crate::plan::prompt::{PromptForm, PromptMaker};
use crate::plan::series;
use crate::plan::vocabulary::{self, Alphabet};
use crate::plan::{Origin, Phase, Plan, Turns, Users};

/// A plan with its maker of prompts and descriptions of both.
pub struct Load {
    /// Requests.
    pub plan: Plan,
    /// Maker of the prompts.
    pub prompts: PromptMaker,
    /// Origin of the requests, for people.
    pub source: String,
    /// Form of the prompts, for people.
    pub prompt_note: String,
    /// Warnings for a reader of the report.
    pub warnings: Vec<String>,
}

/// Limits that the server reports.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerLimits {
    /// Largest sum of prompt and output tokens.
    pub context_tokens: Option<u32>,
    /// Number of token ids.
    pub vocabulary: Option<u32>,
}

/// Token ids of prompts for an unknown vocabulary; the upper end is excluded.
const TOKEN_IDS: Range = Range { lo: 1_000, hi: 40_000 };

/// Makes the load. If the context of the server is known, `load.on_too_long` applies to requests
/// that exceed it.
pub fn build(
    load: &LoadArgs,
    replay: &ReplayArgs,
    endpoint: Endpoint,
    limits: ServerLimits,
) -> Result<Load> {
    let mut warnings = Vec::new();
    let mut plan = match (&replay.schedule, &replay.trace, load.closed.users) {
        (Some(path), _, _) => from_schedule(path)?,
        (None, Some(path), _) => from_trace(path, load, replay, &mut warnings)?,
        (None, None, Some(users)) => closed_loop(load, users),
        (None, None, None) => synthetic(load)?,
    };
    if let Some(most) = load.requests {
        let mut left = most;
        plan.requests.retain(|request| {
            let keeps = request.phase == Phase::Cooldown || left > 0;
            left -= usize::from(request.phase != Phase::Cooldown && left > 0);
            keeps
        });
    }
    if plan.requests.is_empty() {
        bail!("--requests 0 leaves nothing to send");
    }
    let cools_down = plan.requests.iter().any(|request| request.phase == Phase::Cooldown);
    if load.cooldown.is_some() && !cools_down {
        bail!(
            "--cooldown needs requests after the measured ones: a --rate, or a trace with more \
             after its --window"
        );
    }
    if plan.requests.iter().all(|request| request.phase != Phase::Measured) {
        bail!("only warm-up requests are left: there is nothing to measure");
    }
    let plan = match limits.context_tokens {
        Some(context_tokens) => plan.fit(context_tokens, load.on_too_long)?,
        None => {
            warnings.push(
                "the server does not say how long its context is: longer requests will fail"
                    .to_owned(),
            );
            plan
        }
    };
    let (alphabet, form, prompt_note) =
        prompts(load, plan.origin.seed, endpoint, limits.vocabulary)?;
    let prompts = PromptMaker::new(alphabet, form, &plan.origin);
    if let Some(first) = plan.requests.first() {
        prompts.prompt(first).context("the first prompt cannot be made")?;
    }
    let alike = prompts.collisions(&plan.requests);
    if alike > 0 {
        warnings.push(format!(
            "{alike} blocks are too short to differ from another one behind the same prefix: \
             prompts share more than planned"
        ));
    }
    Ok(Load { source: plan.origin.source.clone(), plan, prompts, prompt_note, warnings })
}

/// Returns the arrival process of the flags, at `rate`.
fn arrivals(kind: ArrivalKind, shaping: &ShapingArgs, rate: f64) -> Arrivals {
    let seconds = |nanos: Nanos| nanos.0 as f64 / 1e9;
    let flat = |gaps| Arrivals { gaps, rate: Rate::Flat(rate) };
    match kind {
        ArrivalKind::Poisson => flat(Gaps::Exponential),
        ArrivalKind::Constant => flat(Gaps::Constant),
        ArrivalKind::Gamma => flat(Gaps::Gamma { cv: shaping.cv }),
        ArrivalKind::Weibull => flat(Gaps::Weibull { shape: shaping.shape }),
        ArrivalKind::OnOff => {
            let (on_s, off_s) = (seconds(shaping.on), seconds(shaping.off));
            Arrivals { gaps: Gaps::Exponential, rate: Rate::OnOff { mean: rate, on_s, off_s } }
        }
        ArrivalKind::Diurnal => {
            let (swing, period_s) = (shaping.swing, seconds(shaping.period));
            Arrivals { gaps: Gaps::Exponential, rate: Rate::Sine { mean: rate, swing, period_s } }
        }
    }
}

fn in_words(kind: ArrivalKind, shaping: &ShapingArgs) -> String {
    match kind {
        ArrivalKind::Poisson => "Poisson".to_owned(),
        ArrivalKind::Constant => "constant".to_owned(),
        ArrivalKind::Gamma => format!("gamma (CV {})", shaping.cv),
        ArrivalKind::Weibull => format!("Weibull (shape {})", shaping.shape),
        ArrivalKind::OnOff => format!("on/off ({} on, {} off)", shaping.on, shaping.off),
        ArrivalKind::Diurnal => format!("diurnal (±{} in {})", shaping.swing, shaping.period),
    }
}

fn synthetic(load: &LoadArgs) -> Result<Plan> {
    let bounds = Bounds { requests: load.requests, duration: load.duration };
    let (process, words) = match (&load.rate_series, load.rate) {
        (Some(path), _) => {
            if matches!(load.arrivals, ArrivalKind::OnOff | ArrivalKind::Diurnal) {
                bail!(
                    "--rate-series sets the rate over time, and so does --arrivals on-off or diurnal"
                );
            }
            let rate = Rate::Steps(series::read(path, load.duration)?);
            let words = format!("rates of {}", path.display());
            (Arrivals { rate, ..arrivals(load.arrivals, &load.shaping, 1.0) }, words)
        }
        (None, Some(rate)) => (arrivals(load.arrivals, &load.shaping, rate), format!("{rate}/s")),
        (None, None) => bail!("a load needs --rate, --rate-series, --users, --trace or --schedule"),
    };
    let mut times = intended_times(&process, bounds, load.seed)?;
    let measured = times.len();
    if let Some(cooldown) = load.cooldown {
        // The same draws continue after the measured requests, which do not change.
        let full = load.requests == Some(measured);
        let last = Nanos(times.last().map_or(0, |at| at + 1));
        let end = load.duration.filter(|_| !full).unwrap_or(last);
        let further = Bounds { requests: None, duration: Some(Nanos(end.0 + cooldown.0)) };
        times = intended_times(&process, further, load.seed)?;
    }
    let mut plan = Plan::synthetic(&times, load.input_tokens, load.output_tokens, load.seed);
    plan.requests.iter_mut().skip(measured).for_each(|request| request.phase = Phase::Cooldown);
    let source = format!(
        "{} arrivals at {words}, {} prompt and {} output tokens, every prompt its own",
        in_words(load.arrivals, &load.shaping),
        load.input_tokens,
        load.output_tokens
    );
    Ok(with_origin(plan, load.seed, source))
}

fn closed_loop(load: &LoadArgs, users: u32) -> Plan {
    let users = Users {
        count: users as usize,
        think: load.closed.think_time,
        steady: load.closed.think == Think::Constant,
        requests: load.requests.unwrap_or(0),
        until: load.duration,
    };
    let plan = Plan::closed_loop(&users, load.input_tokens, load.output_tokens, load.seed);
    let source = format!(
        "closed loop of {} users, think time {} ({:?}), {} prompt and {} output tokens, every \
         prompt its own",
        users.count, users.think, load.closed.think, load.input_tokens, load.output_tokens
    );
    with_origin(plan, load.seed, source)
}

fn with_origin(plan: Plan, seed: u64, source: String) -> Plan {
    let digest = *blake3::hash(b"loadgen synthetic load").as_bytes();
    let origin = Origin { source, digest, seed, blocks: plan.requests.len() };
    Plan { origin, ..plan }
}

fn from_schedule(path: &Path) -> Result<Plan> {
    let named = || format!("cannot read the schedule {}", path.display());
    let file = File::open(path).with_context(named)?;
    Plan::read(&mut BufReader::new(file)).with_context(named)
}

fn from_trace(
    path: &Path,
    load: &LoadArgs,
    replay: &ReplayArgs,
    warnings: &mut Vec<String>,
) -> Result<Plan> {
    let from = replay.prefill_cache_from;
    let window = match (replay.window, from) {
        (Some(window), Some(from)) if from >= window.from => {
            bail!("--prefill-cache-from {from} is not before the window {window}")
        }
        (Some(window), Some(from)) => Some(Window { from, ..window }),
        (window, _) => window,
    };
    let window = window.map(|window| Window {
        to: window.to.map(|to| {
            Nanos(to.0 + load.cooldown.map_or(0.0, |c| c.0 as f64 * replay.speedup).round() as i64)
        }),
        ..window
    });
    let options = ReadOptions {
        format: replay.format,
        block_tokens: replay.trace_block,
        vocabulary: load.vocab_tokenizer.as_deref().map(vocabulary::open).transpose()?,
        window,
        seed: load.seed,
        strict: replay.strict,
    };
    let mut trace = traces::read(path, &options)?;
    warnings.extend(trace.notes.iter().cloned());
    warnings.extend(trace.oddities.describe());
    begin_sessions(&mut trace, load, replay)?;
    let window = window.filter(|_| !trace.generated);
    let asked = Shape {
        window,
        speedup: replay.speedup,
        scale: replay.scale,
        dequantize: replay.dequantize,
        seed: load.seed,
    };
    let shaped: Shaped = shape(&trace, &asked)?;
    if let Some(quantum) = shaped.quantum.filter(|_| replay.dequantize == Dequantize::None) {
        warnings.push(format!(
            "the time stamps lie on a grid of {}, up to {} requests arrive at one instant: tail \
             latencies are artifacts of that (see --dequantize)",
            Nanos(quantum.step_ns),
            quantum.largest_burst
        ));
    }
    let mut plan = Plan { turns: replay.turns, ..Plan::replay(&trace, &shaped) };
    if let (Some(window), Some(from)) = (replay.window, from) {
        let measured_ns = ((window.from.0 - from.0) as f64 / replay.speedup).round() as i64;
        for request in plan.requests.iter_mut().filter(|r| r.intended_ns < measured_ns) {
            request.phase = Phase::Warmup;
        }
    }
    if let Some(Window { from: begin, to: Some(to) }) = replay.window {
        let end_ns = ((to.0 - from.unwrap_or(begin).0) as f64 / replay.speedup).round() as i64;
        for request in plan.requests.iter_mut().filter(|r| r.intended_ns >= end_ns) {
            request.phase = Phase::Cooldown;
        }
    }
    let source = in_words_of(&trace, &shaped, load, replay);
    let (digest, seed) = (trace.digest, load.seed);
    let blocks = trace.block_ids.len().max(trace.records.len());
    Ok(Plan { origin: Origin { source, digest, seed, blocks }, ..plan })
}

/// Sets the start of sessions without a common clock, or of requests without times.
fn begin_sessions(trace: &mut Trace, load: &LoadArgs, replay: &ReplayArgs) -> Result<()> {
    let has_sessions = trace.records.iter().any(|r| r.session.is_some());
    let Some(rate) = replay.session_rate else {
        if !trace.timed {
            bail!("{} has no time stamps: give --session-rate", trace.name);
        }
        return Ok(());
    };
    if !trace.timed && has_sessions && replay.turns == Turns::Open {
        bail!("{} has no times of later turns: give --turns after-previous", trace.name);
    }
    let bounds = Bounds { requests: Some(edit::session_count(trace)), duration: None };
    let process = arrivals(load.arrivals, &load.shaping, rate);
    edit::restart(trace, &intended_times(&process, bounds, load.seed)?);
    Ok(())
}

fn in_words_of(trace: &Trace, shaped: &Shaped, load: &LoadArgs, replay: &ReplayArgs) -> String {
    let window = replay.window.map_or("whole".to_owned(), |w| format!("window {w}"));
    let cache = replay
        .prefill_cache_from
        .map_or(String::new(), |from| format!(" with the cache filled from {from} on"));
    let starts = replay.session_rate.map_or(String::new(), |rate| {
        format!(", sessions begin at {rate}/s ({})", in_words(load.arrivals, &load.shaping))
    });
    let turns = match replay.turns {
        Turns::Open => "",
        Turns::AfterPrevious => ", turns after the answer before",
    };
    format!(
        "{} ({}), {window}{cache}, speed-up {}, scale {}, {}, dequantize {:?}{starts}{turns}",
        trace.name,
        trace.format.describe(),
        replay.speedup,
        replay.scale,
        summary::blocks(&shaped.sizes),
        replay.dequantize
    )
}

/// Returns ids that are likely ordinary tokens: not the first ones, which are often special, and
/// none above the size of the vocabulary.
fn token_ids(vocabulary: Option<u32>) -> Range {
    match vocabulary {
        Some(size) if size < TOKEN_IDS.hi => Range { lo: TOKEN_IDS.lo.min(size / 8), hi: size },
        _ => TOKEN_IDS,
    }
}

fn prompts(
    load: &LoadArgs,
    seed: u64,
    endpoint: Endpoint,
    vocabulary: Option<u32>,
) -> Result<(Alphabet, PromptForm, String)> {
    let form = load.prompt_as.unwrap_or(match endpoint {
        Endpoint::Completions => PromptAs::Tokens,
        Endpoint::Chat => PromptAs::Text,
    });
    if form == PromptAs::Tokens && endpoint == Endpoint::Chat {
        bail!("chat messages are text: --prompt-as tokens needs --endpoint completions");
    }
    let Some(path) = &load.vocab_tokenizer else {
        let ids = load.token_ids.unwrap_or_else(|| token_ids(vocabulary));
        return Ok(match form {
            PromptAs::Tokens => (
                Alphabet::of_range(ids, seed)?,
                PromptForm::Tokens,
                format!("token ids from {ids}, exact"),
            ),
            PromptAs::Text => (
                PromptMaker::word_alphabet(seed)?,
                PromptForm::Words,
                "common words, about one token each (exact with --vocab-tokenizer)".to_owned(),
            ),
        });
    };
    let vocabulary = vocabulary::open(path)?;
    let alphabet = Alphabet::of_words(vocabulary.as_ref(), seed)?;
    let words = alphabet.ids().len();
    Ok(match form {
        PromptAs::Tokens => {
            (alphabet, PromptForm::Tokens, format!("token ids of {words} words, exact"))
        }
        PromptAs::Text => (
            alphabet,
            PromptForm::ExactText(vocabulary),
            format!("text of {words} words, each prompt checked to give its tokens back"),
        ),
    })
}
