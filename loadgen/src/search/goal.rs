//! Requirements of a rate: percentiles under bounds, and goodput.

use std::str::FromStr;

use crate::report::samples::Samples;
use crate::report::search::Requirement;
use crate::send::slo::{Slo, SloError};

/// Share of the requests that must meet plain bounds, unless a goodput is given.
const USUAL_GOODPUT: f64 = 0.99;

/// A bound of the command line: `ttft_p99=500ms`, or `ttft=500ms` for goodput.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    /// Metric and bound.
    pub slo: Slo,
    /// Share of the requests that must meet it, for a percentile.
    pub percentile: Option<f64>,
}

/// A text that is not a bound.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BoundError {
    /// The percentile is not one.
    #[error("{0:?} is not a percentile: write p50, p90, p95, p99 or p99.9")]
    Percentile(String),
    /// The rest is not an SLO.
    #[error(transparent)]
    Slo(#[from] SloError),
}

impl FromStr for Bound {
    type Err = BoundError;

    fn from_str(text: &str) -> Result<Self, BoundError> {
        let (name, bound) = text.split_once('=').unwrap_or((text, ""));
        let Some((metric, percentile)) = name.split_once('_') else {
            return Ok(Self { slo: text.parse()?, percentile: None });
        };
        let wrong = || BoundError::Percentile(percentile.to_owned());
        let digits = percentile.strip_prefix('p').ok_or_else(wrong)?;
        let percent: f64 = digits.parse().map_err(|_| wrong())?;
        if !(percent > 0.0 && percent < 100.0) {
            return Err(wrong());
        }
        let slo = format!("{metric}={bound}").parse()?;
        Ok(Self { slo, percentile: Some(percent / 100.0) })
    }
}

impl Requirement {
    /// Derives the requirements of `bounds` and a goodput.
    pub fn all(bounds: &[Bound], goodput: Option<f64>) -> Vec<Self> {
        let pair = |b: &Bound| (b.slo.metric.name().to_owned(), b.slo.bound.0 as f64 / 1e6);
        let mut all: Vec<Self> = bounds
            .iter()
            .filter_map(|b| {
                let needed = b.percentile?;
                let metric = b.slo.metric.name();
                let name = format!("{metric}_p{}={}", percent(needed), b.slo.bound);
                Some(Self { name, bounds: vec![pair(b)], needed })
            })
            .collect();
        let joint: Vec<&Bound> =
            bounds.iter().filter(|b| goodput.is_some() || b.percentile.is_none()).collect();
        if !joint.is_empty() {
            let needed = goodput.unwrap_or(USUAL_GOODPUT);
            let slos: Vec<String> = joint.iter().map(|b| b.slo.to_string()).collect();
            all.push(Self {
                name: format!("{} % of {}", percent(needed), slos.join(" and ")),
                bounds: joint.into_iter().map(pair).collect(),
                needed,
            });
        }
        all
    }

    /// Returns, for each measured request in order of arrival, whether it missed the requirement. A
    /// failure misses every requirement.
    pub fn misses(&self, samples: &Samples) -> Vec<bool> {
        let rows = samples.failed.iter().enumerate();
        rows.map(|(row, failed)| *failed || !self.is_kept(samples, row)).collect()
    }

    /// Returns whether a request kept every bound.
    fn is_kept(&self, samples: &Samples, row: usize) -> bool {
        self.bounds.iter().all(|(metric, bound)| {
            let value = samples.column(metric).and_then(|column| *column.get(row)?);
            // A single token has no TPOT.
            value.map_or(metric == "tpot", |value| value <= *bound)
        })
    }

    /// Returns the smallest number of requests that can prove the requirement, without any miss.
    pub fn least_requests(&self) -> usize {
        (4.0 / (1.0 - self.needed)).ceil() as usize
    }
}

/// Formats a share as `99` or `99.9`.
fn percent(part: f64) -> String {
    let text = format!("{:.3}", 100.0 * part);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(texts: &[&str]) -> Vec<Bound> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn bounds_are_read() {
        let all = Requirement::all(&bounds(&["ttft_p99=500ms", "tpot_p99.9=50ms"]), None);
        let names: Vec<&str> = all.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(names, ["ttft_p99=500ms", "tpot_p99.9=50ms"]);
        assert_eq!((all[0].needed, all[0].bounds[0].1), (0.99, 500.0));
        let all = Requirement::all(&bounds(&["ttft=1s", "tpot=50ms"]), Some(0.95));
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].name, "95 % of ttft=1s and tpot=50ms");
        // A goodput also applies to percentile bounds together.
        assert_eq!(Requirement::all(&bounds(&["ttft_p50=1s"]), Some(0.9)).len(), 2);
        for bad in ["ttft_q9=1s", "ttft_p100=1s", "ttft_p99", "itl_p99=1s", "ttft_p99=1"] {
            assert!(bad.parse::<Bound>().is_err(), "{bad}");
        }
    }

    #[test]
    fn failures_miss_everything_and_one_token_has_no_tpot() {
        let samples = Samples {
            at_ms: vec![0.0; 4],
            ttft_ms: vec![Some(400.0), Some(600.0), None, Some(1.0)],
            tpot_ms: vec![None, Some(1.0), None, Some(90.0)],
            e2e_ms: vec![Some(1.0); 4],
            failed: vec![false, false, true, false],
        };
        let all = Requirement::all(&bounds(&["ttft=500ms", "tpot=50ms"]), None);
        assert_eq!(all[0].misses(&samples), [false, true, true, true]);
    }
}
