//! `tandem bench --path`: the cost of everything but the engines.

mod report;
mod routing;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use traces::quantile::quantile;

use super::CommonArgs;
use super::figures::{median, sorted};
use super::fleet::{Fleet, KINDS, Traffic};
use super::load::{LoadClient, Sample, closed_loop};
use super::usage::{CLIENT, Usage};
use crate::console;

const FREE_ENGINES: [(&str, &str); 1] = [("engine", "simulated")];
const CONCURRENCY: [usize; 4] = [1, 16, 64, 256];
const WARM_UP: Duration = Duration::from_secs(1);

/// One round of a case.
struct Measured {
    seconds: f64,
    samples: Vec<Sample>,
    /// CPU seconds by kind of process.
    cpu_s: BTreeMap<&'static str, f64>,
    traffic: Traffic,
}

/// The medians over the rounds of a case.
#[derive(Clone, Debug, PartialEq)]
struct Case {
    workers: usize,
    concurrency: usize,
    requests_per_s: f64,
    ttft_ms: [f64; 2],
    e2e_ms: [f64; 2],
    /// Milliseconds of CPU per request, by kind of process.
    cpu_ms: BTreeMap<&'static str, f64>,
    messages: f64,
    bytes: f64,
}

/// The resources of a fleet without requests.
#[derive(Clone, Copy, Debug, PartialEq)]
struct IdleUsage {
    workers: usize,
    /// CPU per worker, in percent of one core.
    cpu_percent: f64,
    /// Resident memory per worker.
    resident_mb: f64,
}

/// Measures and prints.
pub(super) async fn run(common: CommonArgs) -> anyhow::Result<()> {
    let fleets: &[usize] = if common.quick { &[1] } else { &[1, 4, 16] };
    let duration = Duration::from_secs(if common.quick { 2 } else { 4 });
    let idle_time = Duration::from_secs(if common.quick { 1 } else { 3 });
    let rounds = if common.quick { 1 } else { common.rounds };
    let mut cases = Vec::new();
    let mut idle = Vec::new();
    for &workers in fleets {
        let fleet = Fleet::start(&common.settings, &FREE_ENGINES, workers).await?;
        idle.push(idle_usage(&fleet, workers, idle_time).await?);
        let client = Arc::new(LoadClient::connect(&fleet.base).await?);
        let mut measured: Vec<Vec<Measured>> = CONCURRENCY.map(|_| Vec::new()).into();
        for round in 1..=rounds {
            for (case, &concurrency) in measured.iter_mut().zip(&CONCURRENCY) {
                console::note(&format!(
                    "{workers}+{workers} workers, {concurrency} in flight, round {round} of {rounds}"
                ));
                case.push(measure(&fleet, &client, concurrency, duration).await?);
            }
        }
        fleet.stop().await?;
        for (rounds, &concurrency) in measured.iter().zip(&CONCURRENCY) {
            cases.push(Case::of(workers, concurrency, rounds));
        }
    }
    let routing = routing::measure()?;
    console::line(&report::table(&cases, &idle, &routing));
    if let Some(path) = &common.json {
        let json = report::json(&cases, &idle, &routing);
        std::fs::write(path, format!("{json:#}\n"))
            .with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// Measures for `time`, after as long a rest.
async fn idle_usage(fleet: &Fleet, workers: usize, time: Duration) -> anyhow::Result<IdleUsage> {
    tokio::time::sleep(time).await;
    let (before, started) = (fleet.usage()?, Instant::now());
    tokio::time::sleep(time).await;
    let (after, seconds) = (fleet.usage()?, started.elapsed().as_secs_f64());
    let both = |usage: &BTreeMap<String, Usage>| {
        let of = |kind: &str| usage.get(kind).copied().unwrap_or_default();
        let (prefill, decode) = (of("prefill"), of("decode"));
        (prefill.cpu_s + decode.cpu_s, prefill.resident_bytes + decode.resident_bytes)
    };
    let count = 2.0 * workers as f64;
    Ok(IdleUsage {
        workers,
        cpu_percent: 100.0 * (both(&after).0 - both(&before).0) / seconds / count,
        resident_mb: both(&after).1 as f64 / 1e6 / count,
    })
}

async fn measure(
    fleet: &Fleet,
    client: &Arc<LoadClient>,
    concurrency: usize,
    duration: Duration,
) -> anyhow::Result<Measured> {
    closed_loop(client, concurrency, WARM_UP).await?;
    let (usage, traffic) = (fleet.usage()?, fleet.traffic().await?);
    let started = Instant::now();
    let samples = closed_loop(client, concurrency, duration).await?;
    let seconds = started.elapsed().as_secs_f64();
    let (used, carried) = (fleet.usage()?, fleet.traffic().await?);
    ensure!(!samples.is_empty(), "no request was answered");
    let cpu_of = |usage: &BTreeMap<String, Usage>, kind| usage.get(kind).map_or(0.0, |it| it.cpu_s);
    let cpu_s = KINDS.map(|kind| (kind, cpu_of(&used, kind) - cpu_of(&usage, kind)));
    Ok(Measured {
        seconds,
        samples,
        cpu_s: cpu_s.into_iter().collect(),
        traffic: Traffic {
            messages: carried.messages - traffic.messages,
            bytes: carried.bytes - traffic.bytes,
        },
    })
}

impl Case {
    fn of(workers: usize, concurrency: usize, rounds: &[Measured]) -> Self {
        let over = |figure: &dyn Fn(&Measured) -> f64| median(rounds.iter().map(figure).collect());
        let requests = |round: &Measured| round.samples.len() as f64;
        let both = |time: fn(&Sample) -> f64| {
            [0.5, 0.99].map(|share| {
                over(&|round| {
                    let times = sorted(round.samples.iter().map(time).collect());
                    quantile(&times, share).unwrap_or(f64::NAN)
                })
            })
        };
        let cpu = KINDS.map(|kind| {
            let ms = over(&|round| 1e3 * round.cpu_s[kind] / requests(round));
            (kind, ms)
        });
        Self {
            workers,
            concurrency,
            requests_per_s: over(&|round| requests(round) / round.seconds),
            ttft_ms: both(|sample| sample.ttft_ms),
            e2e_ms: both(|sample| sample.e2e_ms),
            cpu_ms: cpu.into_iter().collect(),
            messages: over(&|round| round.traffic.messages as f64 / requests(round)),
            bytes: over(&|round| round.traffic.bytes as f64 / requests(round)),
        }
    }

    /// Returns the CPU milliseconds per request of all processes but this one.
    fn cpu_ms(&self) -> f64 {
        self.cpu_ms.iter().filter(|(kind, _)| **kind != CLIENT).map(|(_, ms)| ms).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(requests: u64) -> Measured {
        let samples = (1..=requests).map(|ms| ms as f64);
        Measured {
            seconds: 2.0,
            samples: samples.map(|ms| Sample { ttft_ms: ms, e2e_ms: 2.0 * ms }).collect(),
            cpu_s: KINDS.map(|kind| (kind, 0.1 * requests as f64)).into(),
            traffic: Traffic { messages: 30 * requests, bytes: 1_000 * requests },
        }
    }

    #[test]
    fn a_case_is_the_median_of_its_rounds() {
        let case = Case::of(4, 16, &[measured(101), measured(1), measured(201)]);
        assert_eq!(case.requests_per_s, 50.5);
        assert_eq!((case.ttft_ms, case.e2e_ms), ([51.0, 100.0], [102.0, 200.0]));
        assert_eq!((case.messages, case.bytes), (30.0, 1_000.0));
        assert!((case.cpu_ms() - 500.0).abs() < 1e-6, "the client is not among them");
    }
}
