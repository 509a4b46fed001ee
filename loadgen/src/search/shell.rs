//! The execution of a search: runs each probe and asks the machine for the next one.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use traces::units::{NS_PER_S, Nanos};

use super::growth::QueueMonitor;
use super::judge::judge;
use super::machine::{self, Step};
use crate::measure::windows::Warmup;
use crate::plan::workload::{self, ServerLimits};
use crate::report::Report;
use crate::report::search::{Judgement, Outcome, Probe, Requirement, SearchReport, Space};
use crate::run::RunArgs;
use crate::run::measure;
use crate::send::live::Live;

/// Interval of the samples of waiting requests.
const LOOK: Duration = Duration::from_millis(250);
/// Share of a probe that fills the server and is not measured.
const WARMUP_PART: f64 = 0.2;

/// A search to run.
#[derive(Debug)]
pub struct Search {
    /// Run of each probe. The search sets its rate, length and seed.
    pub run: RunArgs,
    /// Requirements of a rate.
    pub asked: Vec<Requirement>,
    /// Search space.
    pub space: Space,
    /// Smallest length of a probe.
    pub probe: Nanos,
    /// Largest length of a probe, for enough requests.
    pub longest: Nanos,
    /// Rest between probes, so that each starts with an idle server.
    pub settle: Nanos,
}

/// A finished search.
pub struct Done {
    /// Report of the run at the highest held rate, else of the last one, with the search in it.
    pub report: Report,
    /// True if the operator ended the search.
    pub stopped: bool,
}

/// Returns the intended times of a trace at its own speed.
fn own_times(run: &mut RunArgs) -> Result<Vec<i64>> {
    run.replay.speedup = 1.0;
    let load =
        workload::build(&run.load, &run.replay, run.target.endpoint, ServerLimits::default())?;
    Ok(load.plan.requests.iter().map(|request| request.intended_ns).collect())
}

/// Returns the rate of arrivals at `times`, in requests per second.
fn rate_of(times: &[i64]) -> Result<f64> {
    match times {
        [first, .., last] if last > first => {
            Ok((times.len() - 1) as f64 * NS_PER_S as f64 / (last - first) as f64)
        }
        _ => bail!(
            "{} requests of the trace are due at one instant: there is no rate to search",
            times.len()
        ),
    }
}

impl Search {
    /// Tries rates until the machine ends the search or the operator stops it.
    pub async fn run(mut self, mut stop: mpsc::Receiver<String>) -> Result<Done> {
        let times = match &self.run.replay.trace {
            Some(_) => Some(own_times(&mut self.run)?),
            None => None,
        };
        if let Some(times) = &times {
            self.space.start = rate_of(times)?.clamp(self.space.lowest, self.space.highest);
        }
        let seed = self.run.load.seed;
        let (mut probes, mut kept) = (Vec::new(), HeldReports::default());
        let (mut stopped, mut resting) = (false, Duration::ZERO);
        let outcome = loop {
            let (rate, confirming) = match machine::next(&self.space, &probes) {
                Step::Try(rate) => (rate, false),
                Step::Confirm(rate) => (rate, true),
                Step::Done(outcome) => break outcome,
            };
            tokio::time::sleep(resting).await;
            resting = Duration::from_nanos(self.settle.0.unsigned_abs());
            // Each probe has arrivals of its own, so that no single draw decides.
            self.run.load.seed = seed + probes.len() as u64;
            self.prepare(rate, confirming, times.as_deref())?;
            let (report, overloaded, ended) = self.probe(&mut stop).await?;
            if ended {
                stopped = true;
                let held = kept.highest();
                kept.last = Some(report);
                break Outcome::OutOfProbes { held };
            }
            let mut probe = judge(rate, &report, &self.asked, overloaded);
            probe.confirming = confirming;
            print_probe(probes.len() + 1, &probe);
            kept.take(&probe, report);
            probes.push(probe);
        };
        let mut report = kept.best().context("the search ended before its first probe")?;
        let (low, high) = machine::interval(&probes);
        let Self { asked, space, .. } = self;
        report.search = Some(SearchReport { asked, space, outcome, low, high, probes });
        Ok(Done { report, stopped })
    }

    /// Sets rate, length and warm-up of the next probe. `times` are those of a trace at its own
    /// speed.
    fn prepare(&mut self, rate: f64, confirming: bool, times: Option<&[i64]>) -> Result<()> {
        let enough = self.asked.iter().map(Requirement::least_requests).max().unwrap_or(1);
        let wanted_s = enough as f64 / rate / (1.0 - WARMUP_PART);
        let (shortest, longest) = (self.probe.0 as f64, self.longest.0.max(self.probe.0) as f64);
        let length = (wanted_s * NS_PER_S as f64).clamp(shortest, longest);
        let length = if confirming { 2.0 * length } else { length };
        self.run.reporting.warmup = Warmup::Time(Nanos((WARMUP_PART * length) as i64));
        self.run.sending.grace = Nanos(0);
        match times {
            // As much of the start of the trace as fills the probe, faster or slower.
            Some(times) => {
                let most = (length / NS_PER_S as f64 * rate).ceil() as usize;
                // On a coarse grid, the first few requests may all be due at once.
                let same = times.partition_point(|at| *at <= times[0]);
                let most = most.max(same + 1).min(times.len());
                self.run.replay.speedup = rate / rate_of(&times[..most])?;
                self.run.load.requests = Some(most);
            }
            None => {
                self.run.load.rate = Some(rate);
                self.run.load.duration = Some(Nanos(length as i64));
            }
        }
        Ok(())
    }

    /// Runs one probe. Returns its report, whether a growing queue ended it, and whether the
    /// operator did.
    async fn probe(&self, stop: &mut mpsc::Receiver<String>) -> Result<(Report, bool, bool)> {
        let live = Arc::new(Live::new(self.run.reporting.slos.clone()));
        let (end, ended) = mpsc::channel(4);
        let mut running = std::pin::pin!(measure(&self.run, live.clone(), ended));
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let (mut watch, mut overloaded, mut stopped) = (QueueMonitor::default(), false, false);
        loop {
            tokio::select! {
                done = &mut running => return Ok((done?.report, overloaded, stopped)),
                _ = look.tick(), if !overloaded => {
                    overloaded = watch.add(live.waiting());
                    if overloaded {
                        end.send("a queue grew without end".to_owned()).await.ok();
                    }
                }
                Some(reason) = stop.recv() => {
                    stopped = true;
                    end.send(reason).await.ok();
                }
            }
        }
    }
}

/// The reports of the held rates, and the last one.
#[derive(Default)]
struct HeldReports {
    held: Vec<(f64, Report)>,
    last: Option<Report>,
}

impl HeldReports {
    /// Stores a report. The last result of a rate counts.
    fn take(&mut self, probe: &Probe, report: Report) {
        match probe.judgement {
            Judgement::Held => {
                self.held.retain(|(rate, _)| *rate != probe.rate);
                self.held.push((probe.rate, report));
            }
            Judgement::Missed => {
                self.held.retain(|(rate, _)| *rate < probe.rate);
                self.last = Some(report);
            }
            Judgement::Invalid => self.last = Some(report),
        }
    }

    fn highest(&self) -> Option<f64> {
        self.held.iter().map(|(rate, _)| *rate).max_by(f64::total_cmp)
    }

    /// Returns the report at the highest held rate, else the last one.
    fn best(self) -> Option<Report> {
        let best = self.held.into_iter().max_by(|(a, _), (b, _)| a.total_cmp(b));
        best.map(|(_, report)| report).or(self.last)
    }
}

fn print_probe(number: usize, probe: &Probe) {
    let kind = if probe.confirming { "confirmation" } else { "probe" };
    let word = match (probe.judgement, probe.sure) {
        (Judgement::Held, true) => "held",
        (Judgement::Held, false) => "held, not surely",
        (Judgement::Missed, true) => "missed",
        (Judgement::Missed, false) => "missed, not surely",
        (Judgement::Invalid, _) => "INVALID",
    };
    eprintln!(
        "{kind} {number}: {:.3}/s, {} requests: {word}: {}",
        probe.rate, probe.requests, probe.why
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_of_a_trace_is_that_of_its_gaps() {
        let times: Vec<i64> = (0..11).map(|i| 5 + i * NS_PER_S / 4).collect();
        assert!((rate_of(&times).unwrap() - 4.0).abs() < 1e-9);
        for nothing in [&[][..], &[7], &[7, 7]] {
            assert!(rate_of(nothing).unwrap_err().to_string().contains("at one instant"));
        }
    }
}
