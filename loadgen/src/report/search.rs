//! The result of a search as a report holds it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What was searched, tried and found; part of a report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SearchReport {
    /// What a rate must keep.
    pub asked: Vec<Requirement>,
    /// Where it was looked.
    pub space: Space,
    /// How it ended.
    pub outcome: Outcome,
    /// The highest rate that was surely held; none if no probe was sure.
    pub low: Option<f64>,
    /// The lowest rate that was surely missed; none if no probe was sure.
    pub high: Option<f64>,
    /// Every rate tried, in order.
    pub probes: Vec<Probe>,
}

/// One thing that must hold: enough of the requests keep all its bounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Requirement {
    /// In words.
    pub name: String,
    /// Metric and bound in milliseconds.
    pub bounds: Vec<(String, f64)>,
    /// The part of the requests that must keep them.
    pub needed: f64,
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Where and how finely to look.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Space {
    /// The first rate.
    pub start: f64,
    /// The lowest rate that is tried.
    pub lowest: f64,
    /// The highest.
    pub highest: f64,
    /// How close the highest held and the lowest missed rate must come, as a part of the rate.
    pub precision: f64,
    /// The most probes.
    pub probes: usize,
}

/// What a probe says of its rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Judgement {
    /// It is held.
    Held,
    /// It is not.
    Missed,
    /// The generator was at fault: nothing is said of the server.
    Invalid,
}

/// How far one requirement was kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attained {
    /// The part of the requests that kept it.
    pub part: f64,
    /// Lower end of its 95 % interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// One rate tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// Requests offered a second.
    pub rate: f64,
    /// Requests measured.
    pub requests: usize,
    /// What it says.
    pub judgement: Judgement,
    /// Whether its intervals leave no doubt.
    pub sure: bool,
    /// Whether it was to confirm a rate.
    pub confirming: bool,
    /// One for each requirement.
    pub attained: Vec<Attained>,
    /// Time to first token: median and 99th percentile.
    pub ttft_ms: (Option<f64>, Option<f64>),
    /// Why it is judged so.
    pub why: String,
}

/// How a search ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Outcome {
    /// The capacity lies at a rate.
    Found {
        /// The highest rate that was held.
        rate: f64,
        /// Whether a longer run with other arrivals held it too.
        confirmed: bool,
    },
    /// Even the lowest rate is not held.
    MissedAtLowest {
        /// That rate.
        rate: f64,
    },
    /// Even the highest rate is held.
    HeldAtHighest {
        /// That rate.
        rate: f64,
    },
    /// The generator could not keep its schedule: of the server nothing is known above a rate.
    GeneratorLimited {
        /// The rate that it could not offer.
        rate: f64,
        /// The highest rate that was held.
        held: Option<f64>,
        /// What was wrong.
        why: String,
    },
    /// Nothing more may be tried.
    OutOfProbes {
        /// The highest rate that was held.
        held: Option<f64>,
    },
}
