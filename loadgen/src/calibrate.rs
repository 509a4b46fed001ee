//! Finds out what the generator can be trusted with on this machine: drives the null server, whose
//! times are known, and reads the same bytes with a bare TCP loop for comparison.

mod args;
mod child;
mod load;
pub mod null;
mod raw;
mod table;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use traces::quantile::Quantiles;
use traces::units::Nanos;

pub use args::CalibrateArgs;
use child::Server;

/// The p99 lag up to which a step is trusted.
const LAG_LIMIT_MS: f64 = 1.0;
/// The part of the tokens asked for that must have come.
const LEAST_TOKENS: f64 = 0.99;
/// The part of its time that the sending thread may be busy.
const MOST_BUSY: f64 = 0.9;
/// Time to the first token that the server is told to take.
const TTFT: Duration = Duration::from_millis(20);
/// Version of the JSON layout.
const SCHEMA_VERSION: u32 = 1;

/// One load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    streams: u32,
    itl: Duration,
    tokens: u32,
    hold: Duration,
}

impl Shape {
    /// How long one stream lasts.
    fn stream(&self) -> Duration {
        TTFT + self.itl * (self.tokens - 1)
    }

    /// Streams that begin in a second.
    fn rate(&self) -> f64 {
        f64::from(self.streams) / self.stream().as_secs_f64()
    }

    /// Tokens that come in a second.
    fn token_rate(&self) -> f64 {
        self.rate() * f64::from(self.tokens)
    }
}

/// What one step of the ramp showed.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Step {
    /// Streams asked for.
    streams: u32,
    /// The most streams that were in flight.
    streams_peak: usize,
    /// Tokens per second asked for.
    tokens_per_s_asked: f64,
    /// Tokens per second that came.
    tokens_per_s: f64,
    /// How late requests were sent.
    lag_ms: Quantiles,
    /// From the sending to the first token, beyond the time the server was told to take.
    ttft_beyond_ms: Quantiles,
    /// From token to token.
    itl_ms: Quantiles,
    /// Requests that failed.
    failed: usize,
    /// Part of the time in which the sending thread was on a CPU.
    busy: Option<f64>,
    /// Part of the time in which it could have run and was given no CPU.
    starved: Option<f64>,
    /// CPU cores that the server used.
    server_cores: Option<f64>,
    /// CPU time for each token.
    cpu_us_per_token: Option<f64>,
    /// Why the step cannot be trusted; empty if it can.
    faults: Vec<String>,
}

/// What a bare loop that only reads took for the same bytes.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RawStep {
    streams: u32,
    messages_per_s: f64,
    busy: Option<f64>,
    cpu_us_per_message: Option<f64>,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Calibration {
    schema_version: u32,
    cores: usize,
    steps: Vec<Step>,
    /// The bare loop, at the largest step that can be trusted, or else the last one.
    raw: RawStep,
    /// CPU time for a token over that of the bare loop for a message.
    ratio: Option<f64>,
    verdict: String,
}

/// What a calibration found.
#[derive(Debug)]
pub struct Calibrated {
    /// The figures as text for people.
    pub text: String,
    /// Whether as many streams succeeded as were required.
    pub enough: bool,
}

/// Drives the ramp against a server started from `program`, which is this program.
pub async fn run(args: &CalibrateArgs, program: &Path) -> Result<Calibrated> {
    let duration = |nanos: Nanos| Duration::from_nanos(nanos.0.unsigned_abs());
    let server = Server::start(program, TTFT, duration(args.itl)).await?;
    let shape = |streams: u32| Shape {
        streams,
        itl: duration(args.itl),
        tokens: args.tokens,
        hold: duration(args.hold),
    };
    let mut steps: Vec<Step> = Vec::new();
    for streams in &args.streams {
        eprintln!("{streams} streams, {:.0} tokens/s …", shape(*streams).token_rate());
        let step = load::drive(&server, &shape(*streams)).await?;
        let failed = !step.faults.is_empty();
        steps.push(step);
        if failed {
            break;
        }
    }
    let best = steps.iter().rfind(|step| step.faults.is_empty());
    // Shown in any case; a ratio is told only of a step that can be trusted, since a loop that is
    // kept from running reads several messages at once.
    let compared = best.or(steps.last()).context("--streams names no step")?;
    eprintln!("the same bytes, read by a bare loop …");
    let raw = raw::drive(&server, &shape(compared.streams)).await?;
    let ours = best.and_then(|step| step.cpu_us_per_token);
    let ratio = ours.zip(raw.cpu_us_per_message).map(|(us, bare)| us / bare);
    let reached = best.map_or(0, |step| step.streams);
    let verdict = verdict(best, ratio);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let all = Calibration { schema_version: SCHEMA_VERSION, cores, steps, raw, ratio, verdict };
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&all)? + "\n";
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let enough = reached >= args.require.unwrap_or(1);
    Ok(Calibrated { text: table::render(&all), enough })
}

fn verdict(best: Option<&Step>, ratio: Option<f64>) -> String {
    let Some(best) = best else {
        return "not one step can be trusted: the machine is busy or too slow".to_owned();
    };
    let mut text = format!(
        "one thread is to be trusted with {} streams and {:.0} tokens/s on this machine: p99 lag \
         {:.3} ms",
        best.streams,
        best.tokens_per_s,
        best.lag_ms.p99.unwrap_or(0.0)
    );
    if let Some(us) = best.cpu_us_per_token {
        text += &format!(", {us:.1} µs of CPU for each token");
    }
    if let Some(ratio) = ratio {
        text += &format!(", {ratio:.2} times what a bare TCP loop takes to read the same bytes");
    }
    text
}

impl Step {
    /// Finds what is wrong with it.
    fn judge(mut self) -> Self {
        let mut faults = Vec::new();
        if let Some(p99) = self.lag_ms.p99.filter(|p99| *p99 > LAG_LIMIT_MS) {
            faults.push(format!("p99 lag {p99:.3} ms, at most {LAG_LIMIT_MS} ms"));
        }
        if self.tokens_per_s < LEAST_TOKENS * self.tokens_per_s_asked {
            let part = 100.0 * self.tokens_per_s / self.tokens_per_s_asked;
            faults.push(format!("only {part:.1} % of the tokens came in time"));
        }
        if let Some(busy) = self.busy.filter(|busy| *busy > MOST_BUSY) {
            faults.push(format!("the sending thread was busy {:.0} % of the time", busy * 100.0));
        }
        if self.failed > 0 {
            faults.push(format!("{} requests failed", self.failed));
        }
        if let Some(starved) = self.starved.filter(|starved| *starved > 0.05 && !faults.is_empty())
        {
            let part = starved * 100.0;
            faults.push(format!("others kept it from a CPU {part:.0} % of the time"));
        }
        self.faults = faults;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_is_named() {
        let good = Step {
            streams: 10,
            streams_peak: 12,
            tokens_per_s_asked: 100.0,
            tokens_per_s: 99.5,
            lag_ms: Quantiles::of(vec![0.9]),
            ttft_beyond_ms: Quantiles::default(),
            itl_ms: Quantiles::default(),
            failed: 0,
            busy: Some(0.5),
            starved: Some(0.3),
            server_cores: None,
            cpu_us_per_token: Some(8.0),
            faults: Vec::new(),
        };
        let faults = |step: Step| step.judge().faults;
        assert_eq!(faults(good.clone()), [""; 0]);
        let late = Step { lag_ms: Quantiles::of(vec![1.5]), ..good.clone() };
        let expected =
            ["p99 lag 1.500 ms, at most 1 ms", "others kept it from a CPU 30 % of the time"];
        assert_eq!(faults(late), expected);
        let calm = Step { starved: None, ..good };
        let slow = faults(Step { tokens_per_s: 90.0, ..calm.clone() });
        assert_eq!(slow, ["only 90.0 % of the tokens came in time"]);
        assert_eq!(faults(Step { failed: 3, ..calm.clone() }), ["3 requests failed"]);
        let busy = faults(Step { busy: Some(0.95), ..calm });
        assert_eq!(busy, ["the sending thread was busy 95 % of the time"]);
    }
}
