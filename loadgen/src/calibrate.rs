//! Calibration: the load that the generator can send accurately on this machine, measured against
//! the null server, whose times are known, and compared with a bare TCP loop for the same bytes.

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

/// Largest p99 lag of a valid step.
const LAG_LIMIT_MS: f64 = 1.0;
/// Smallest share of the requested tokens that must arrive.
const LEAST_TOKENS: f64 = 0.99;
/// Largest share of the time that the sending thread may be busy.
const MOST_BUSY: f64 = 0.9;
/// Time to first token that the server is set to.
const TTFT: Duration = Duration::from_millis(20);
/// Version of the JSON layout.
const SCHEMA_VERSION: u32 = 1;

/// Load of one step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    streams: u32,
    itl: Duration,
    tokens: u32,
    hold: Duration,
}

impl Shape {
    /// Returns the length of one stream.
    fn stream(&self) -> Duration {
        TTFT + self.itl * (self.tokens - 1)
    }

    /// Returns the number of streams that start per second.
    fn rate(&self) -> f64 {
        f64::from(self.streams) / self.stream().as_secs_f64()
    }

    /// Returns the number of tokens per second.
    fn token_rate(&self) -> f64 {
        self.rate() * f64::from(self.tokens)
    }
}

/// Result of one step of the ramp.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Step {
    /// Requested number of streams.
    streams: u32,
    /// Largest number of streams in flight.
    streams_peak: usize,
    /// Requested tokens per second.
    tokens_per_s_asked: f64,
    /// Received tokens per second.
    tokens_per_s: f64,
    /// Lag of the requests.
    lag_ms: Quantiles,
    /// Time from the send to the first token, beyond the time that the server is set to.
    ttft_beyond_ms: Quantiles,
    /// Time from token to token.
    itl_ms: Quantiles,
    /// Failed requests.
    failed: usize,
    /// Share of the time that the sending thread was on a CPU.
    busy: Option<f64>,
    /// Share of the time that it was runnable without a CPU.
    starved: Option<f64>,
    /// CPU cores that the server used.
    server_cores: Option<f64>,
    /// CPU time per token.
    cpu_us_per_token: Option<f64>,
    /// Reasons for an invalid step; empty for a valid one.
    faults: Vec<String>,
}

/// Result of a bare loop that only reads the same bytes.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RawStep {
    streams: u32,
    messages_per_s: f64,
    busy: Option<f64>,
    cpu_us_per_message: Option<f64>,
}

/// Result of a calibration.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Calibration {
    schema_version: u32,
    cores: usize,
    steps: Vec<Step>,
    /// Result of the bare loop, for the largest valid step, else for the last one.
    raw: RawStep,
    /// CPU time per token over that of the bare loop per message.
    ratio: Option<f64>,
    verdict: String,
}

/// A finished calibration.
#[derive(Debug)]
pub struct Calibrated {
    /// The figures as text for people.
    pub text: String,
    /// True if as many streams succeeded as are required.
    pub enough: bool,
}

/// Runs the ramp against a null server started from `program`, which is this program.
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
    // The bare loop is always shown. The ratio needs a valid step, because a loop without a CPU
    // reads several messages at once.
    let compared = best.or(steps.last()).context("--streams names no step")?;
    eprintln!("reading the same bytes with a bare loop …");
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
    /// Fills in the faults of the step.
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
