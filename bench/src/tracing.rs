//! `tandem bench --tracing`: what recording every request costs.
//!
//! Two systems run side by side, one without traces, one that exports all of them to a receiver
//! that throws them away. They take turns, and only rounds are compared, so that whatever slows
//! the machine down slows both.

mod sink;

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::json;

use self::sink::Sink;
use super::CommonArgs;
use super::figures::{median, plain};
use super::fleet::Fleet;
use super::path::load;
use crate::console;

const CONCURRENCY: usize = 16;
const WARM_UP: Duration = Duration::from_secs(1);
/// What the engines of a case take.
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

/// One case: requests per second of each round, without and with traces.
#[derive(Clone, Debug, PartialEq)]
struct Case {
    name: &'static str,
    rounds: Vec<(f64, f64)>,
    /// What the receiver took, per traced request.
    bytes_per_request: f64,
}

impl Case {
    /// Throughput with traces as a share of that without: the median of the rounds' ratios.
    fn ratio(&self) -> f64 {
        median(self.rounds.iter().map(|(off, on)| on / off).collect())
    }
}

/// Measures and prints.
pub(super) async fn run(common: CommonArgs) -> anyhow::Result<()> {
    let lasting = Duration::from_secs(if common.quick { 2 } else { 4 });
    let rounds = if common.quick { 3 } else { common.rounds.max(5) };
    let mut cases = Vec::new();
    for (name, engine) in CASES {
        cases.push(measure(&common, (name, engine), rounds, lasting).await?);
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
    (name, engine): (&'static str, &[(&str, &str)]),
    rounds: u32,
    lasting: Duration,
) -> anyhow::Result<Case> {
    let sink = Sink::start().await?;
    let url = sink.url();
    let exporting = [("telemetry.otlp_endpoint", url.as_str()), ("telemetry.sample_ratio", "1")];
    let off = Fleet::start(&common.settings, engine, 1).await?;
    let on = [engine, &exporting].concat();
    let on = Fleet::start(&common.settings, &on, 1).await?;
    for fleet in [&off, &on] {
        load(address(fleet), CONCURRENCY, WARM_UP).await?;
    }
    let (mut measured, mut traced) = (Vec::new(), 0);
    let taken = sink.bytes();
    for round in 1..=rounds {
        console::note(&format!("{name}, round {round} of {rounds}"));
        // Who begins moves on.
        let pair = match round % 2 {
            0 => {
                let on = rate(&on, lasting).await?;
                (rate(&off, lasting).await?, on)
            }
            _ => {
                let off = rate(&off, lasting).await?;
                (off, rate(&on, lasting).await?)
            }
        };
        traced += pair.1.1;
        measured.push((pair.0.0, pair.1.0));
    }
    ensure!(taken < sink.bytes(), "no span arrived: nothing was measured");
    off.stop().await?;
    on.stop().await?;
    let bytes_per_request = (sink.bytes() - taken) as f64 / traced as f64;
    Ok(Case { name, rounds: measured, bytes_per_request })
}

fn address(fleet: &Fleet) -> &str {
    fleet.base.trim_start_matches("http://")
}

/// Requests per second, and how many there were.
async fn rate(fleet: &Fleet, lasting: Duration) -> anyhow::Result<(f64, usize)> {
    let started = Instant::now();
    let requests = load(address(fleet), CONCURRENCY, lasting).await?.len();
    ensure!(0 < requests, "no request was answered");
    Ok((requests as f64 / started.elapsed().as_secs_f64(), requests))
}

fn table(cases: &[Case]) -> String {
    let header = ["", "req/s without", "with", "ratio", "least", "most", "kB of spans a request"];
    let mut table = plain(&header);
    for case in cases {
        let of = |side: fn(&(f64, f64)) -> f64| median(case.rounds.iter().map(side).collect());
        let ratios = || case.rounds.iter().map(|(off, on)| on / off);
        let row = [
            format!("{:.0}", of(|round| round.0)),
            format!("{:.0}", of(|round| round.1)),
            format!("{:.3}", case.ratio()),
            format!("{:.3}", ratios().fold(f64::INFINITY, f64::min)),
            format!("{:.3}", ratios().fold(0.0, f64::max)),
            format!("{:.1}", case.bytes_per_request / 1e3),
        ];
        table.add_row([case.name.to_owned()].into_iter().chain(row));
    }
    format!(
        "1 + 1 workers, {CONCURRENCY} requests at once, every request traced, medians over rounds \
         in turns\n\n{table}"
    )
}

fn json(cases: &[Case]) -> serde_json::Value {
    let case = |case: &Case| {
        let rounds = case.rounds.iter();
        json!({
            "case": case.name,
            "ratio": case.ratio(),
            "bytes_per_request": case.bytes_per_request,
            "rounds": rounds.map(|(off, on)| json!({ "off": off, "on": on })).collect::<Vec<_>>(),
        })
    };
    json!({ "concurrency": CONCURRENCY, "tracing": cases.iter().map(case).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_compared_with_themselves() {
        // The machine was slow in the second round; that is nobody's fault.
        let rounds = vec![(1_000.0, 990.0), (500.0, 490.0), (1_000.0, 900.0)];
        let case = Case { name: "free", rounds, bytes_per_request: 5_000.0 };
        assert_eq!(case.ratio(), 0.98);
        let text = table(std::slice::from_ref(&case));
        for figure in ["1000", "900", "0.980", "0.990", "5.0"] {
            assert!(text.contains(figure), "{figure}:\n{text}");
        }
        assert_eq!(json(&[case])["tracing"][0]["rounds"][1]["off"], 500.0);
    }
}
