//! Goodput: the share of all due requests that met every SLO.

use serde::{Deserialize, Serialize};

use crate::measure::wilson::wilson;
use crate::send::record::RequestRecord;
use crate::send::slo::Slo;

/// Attainment of one SLO.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SloAttainment {
    /// The SLO as text.
    pub slo: String,
    /// Share of the due requests that met it.
    pub attainment: f64,
    /// Completed requests that missed this SLO and no other.
    pub missed_only_this: usize,
}

/// Requests that met every SLO.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Goodput {
    /// Requests that met every SLO.
    pub good: usize,
    /// Requests due in the window, including failures.
    pub offered: usize,
    /// Good over offered.
    pub attainment: f64,
    /// Lower end of its 95 % Wilson interval.
    pub low: f64,
    /// Upper end of its 95 % Wilson interval.
    pub high: f64,
    /// Good requests per second of the window.
    pub rps: f64,
    /// Misses by failure: errors, timeouts, drops.
    pub failed: usize,
    /// Attainment by SLO.
    pub per_slo: Vec<SloAttainment>,
}

/// Computes the goodput of `records` under `slos`; `None` without SLOs.
pub fn goodput(records: &[&RequestRecord], slos: &[Slo], span_s: f64) -> Option<Goodput> {
    if slos.is_empty() {
        return None;
    }
    let offered = records.len();
    let part = |n: usize| if offered == 0 { 0.0 } else { n as f64 / offered as f64 };
    let good = records.iter().filter(|r| slos.iter().all(|slo| r.meets(slo))).count();
    let (low, high) = wilson(good, offered);
    let per_slo = slos.iter().map(|slo| SloAttainment {
        slo: slo.to_string(),
        attainment: part(records.iter().filter(|r| r.meets(slo)).count()),
        missed_only_this: records.iter().filter(|r| misses_only(r, slo, slos)).count(),
    });
    Some(Goodput {
        good,
        offered,
        attainment: part(good),
        low,
        high,
        rps: if span_s > 0.0 { good as f64 / span_s } else { good as f64 },
        failed: records.iter().filter(|r| !r.succeeded()).count(),
        per_slo: per_slo.collect(),
    })
}

fn misses_only(record: &RequestRecord, this: &Slo, slos: &[Slo]) -> bool {
    record.succeeded() && slos.iter().all(|slo| record.meets(slo) != (slo == this))
}
