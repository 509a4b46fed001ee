//! `tandem bench --tracing`: the cost of recording every request.
//!
//! Two systems run side by side: one without traces, one that exports all traces to a receiver that
//! discards them. They take turns and only rounds are compared, so that a disturbance of the machine
//! slows both.

mod sink;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::json;

use self::sink::Sink;
use super::CommonArgs;
use super::figures::{median, plain};
use super::fleet::Fleet;
use super::load::{LoadClient, closed_loop};
use crate::console;

const CONCURRENCY: usize = 16;
const WARM_UP: Duration = Duration::from_secs(1);
/// The cases: names, and settings of the engines.
const CASES: [(&str, &[(&str, &str)]); 2] = [
    ("engines that cost nothing", &[("engine", "simulated")]),
    (
        "engines of a small model",
        &[
            ("engine", "simulated"),
            ("simulated.prefill_us_per_token", "50"),
            ("simulated.decode_us_per_step", "1000"),
            ("simulated.decode_us_per_sequence", "100"),
        ],
    ),
];

/// The figures of one case.
#[derive(Clone, Debug, PartialEq)]
struct Case {
    name: &'static str,
    rounds: Vec<Round>,
    /// Bytes that the receiver got per traced request.
    bytes_per_request: f64,
}

/// Requests per second in one round.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Round {
    /// Without traces.
    off: f64,
    /// With traces.
    on: f64,
}

impl Round {
    fn ratio(&self) -> f64 {
        self.on / self.off
    }
}

impl Case {
    /// Returns the throughput with traces as a share of that without: the median of the ratios.
    fn ratio(&self) -> f64 {
        median(self.rounds.iter().map(Round::ratio).collect())
    }
}

/// A system, and the client that loads it.
struct System {
    fleet: Fleet,
    client: Arc<LoadClient>,
}

/// The throughput of one system in one round.
struct Throughput {
    requests: usize,
    per_second: f64,
}

impl System {
    async fn start(common: &CommonArgs, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let fleet = Fleet::start(&common.settings, settings, 1).await?;
        let client = Arc::new(LoadClient::connect(&fleet.base).await?);
        closed_loop(&client, CONCURRENCY, WARM_UP).await?;
        Ok(Self { fleet, client })
    }

    async fn throughput(&self, duration: Duration) -> anyhow::Result<Throughput> {
        let started = Instant::now();
        let requests = closed_loop(&self.client, CONCURRENCY, duration).await?.len();
        ensure!(requests > 0, "no request was answered");
        let per_second = requests as f64 / started.elapsed().as_secs_f64();
        Ok(Throughput { requests, per_second })
    }
}

/// Measures and prints.
pub(super) async fn run(common: CommonArgs) -> anyhow::Result<()> {
    let mut cases = Vec::new();
    for (name, engine) in CASES {
        cases.push(measure(&common, name, engine).await?);
    }
    console::line(&table(&cases));
    if let Some(path) = &common.json {
        std::fs::write(path, format!("{:#}\n", json(&cases)))
            .with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

async fn measure(
    common: &CommonArgs,
    name: &'static str,
    engine: &[(&str, &str)],
) -> anyhow::Result<Case> {
    let duration = Duration::from_secs(if common.quick { 2 } else { 4 });
    let count = if common.quick { 3 } else { common.rounds.max(5) };
    let sink = Sink::start().await?;
    let url = sink.url();
    let exporting = [("telemetry.otlp_endpoint", url.as_str()), ("telemetry.sample_ratio", "1")];
    let off = System::start(common, engine).await?;
    let on = System::start(common, &[engine, &exporting].concat()).await?;
    let bytes_before = sink.bytes();
    let mut rounds = Vec::new();
    let mut traced = 0;
    for round in 1..=count {
        console::note(&format!("{name}, round {round} of {count}"));
        // The system that begins changes from round to round.
        let (without, with) = if round % 2 == 0 {
            let with = on.throughput(duration).await?;
            (off.throughput(duration).await?, with)
        } else {
            (off.throughput(duration).await?, on.throughput(duration).await?)
        };
        traced += with.requests;
        rounds.push(Round { off: without.per_second, on: with.per_second });
    }
    let bytes = sink.bytes() - bytes_before;
    ensure!(bytes > 0, "no span arrived, so the cost of traces was not measured");
    off.fleet.stop().await?;
    on.fleet.stop().await?;
    Ok(Case { name, rounds, bytes_per_request: bytes as f64 / traced as f64 })
}

fn table(cases: &[Case]) -> String {
    let header = ["", "req/s without", "with", "ratio", "least", "most", "kB of spans a request"];
    let mut table = plain(header);
    for case in cases {
        let ratios = || case.rounds.iter().map(Round::ratio);
        table.add_row([
            case.name.to_owned(),
            format!("{:.0}", median(case.rounds.iter().map(|round| round.off).collect())),
            format!("{:.0}", median(case.rounds.iter().map(|round| round.on).collect())),
            format!("{:.3}", case.ratio()),
            format!("{:.3}", ratios().fold(f64::INFINITY, f64::min)),
            format!("{:.3}", ratios().fold(0.0, f64::max)),
            format!("{:.1}", case.bytes_per_request / 1e3),
        ]);
    }
    format!(
        "1 + 1 workers, {CONCURRENCY} requests in flight, every request traced, medians over \
         rounds in turns\n\n{table}"
    )
}

fn json(cases: &[Case]) -> serde_json::Value {
    let case = |case: &Case| {
        let rounds = case.rounds.iter();
        json!({
            "case": case.name,
            "ratio": case.ratio(),
            "bytes_per_request": case.bytes_per_request,
            "rounds": rounds
                .map(|round| json!({ "off": round.off, "on": round.on }))
                .collect::<Vec<_>>(),
        })
    };
    json!({ "concurrency": CONCURRENCY, "tracing": cases.iter().map(case).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_compared_with_themselves() {
        // The machine was slow in the second round.
        let rounds = [(1_000.0, 990.0), (500.0, 490.0), (1_000.0, 900.0)];
        let rounds = rounds.map(|(off, on)| Round { off, on }).to_vec();
        let case = Case { name: "free", rounds, bytes_per_request: 5_000.0 };
        assert_eq!(case.ratio(), 0.98);
        let text = table(std::slice::from_ref(&case));
        for figure in ["1000", "900", "0.980", "0.990", "5.0"] {
            assert!(text.contains(figure), "{figure}:\n{text}");
        }
        assert_eq!(json(&[case])["tracing"][0]["rounds"][1]["off"], 500.0);
    }
}
