//! The search section of a report.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A search with its probes and its result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SearchReport {
    /// Requirements of a rate.
    pub asked: Vec<Requirement>,
    /// Search space.
    pub space: Space,
    /// Result.
    pub outcome: Outcome,
    /// Highest rate that certainly met the requirements; `None` if no probe was certain.
    pub low: Option<f64>,
    /// Lowest rate that certainly missed them; `None` if no probe was certain.
    pub high: Option<f64>,
    /// Probes, in order.
    pub probes: Vec<Probe>,
}

/// A requirement: a share of the requests must meet all bounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Requirement {
    /// Name for people.
    pub name: String,
    /// Metrics and bounds in milliseconds.
    pub bounds: Vec<(String, f64)>,
    /// Share of the requests that must meet the bounds.
    pub needed: f64,
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Search space and precision.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Space {
    /// First rate to try.
    pub start: f64,
    /// Lowest rate to try.
    pub lowest: f64,
    /// Highest rate to try.
    pub highest: f64,
    /// Distance of the highest held and the lowest missed rate at which the search ends, as a share
    /// of the rate.
    pub precision: f64,
    /// Largest number of probes.
    pub probes: usize,
}

/// Result of a probe for its rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Judgement {
    /// The rate met the requirements.
    Held,
    /// The rate missed a requirement.
    Missed,
    /// The generator failed, so the probe says nothing about the server.
    Invalid,
}

/// Attainment of one requirement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attained {
    /// Share of the requests that met it.
    pub part: f64,
    /// Lower end of its 95 % interval.
    pub low: f64,
    /// Upper end of its 95 % interval.
    pub high: f64,
}

/// A run at one rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// Requests per second.
    pub rate: f64,
    /// Measured requests.
    pub requests: usize,
    /// Result for the rate.
    pub judgement: Judgement,
    /// True if the intervals leave no doubt.
    pub sure: bool,
    /// True for a confirmation of a rate.
    pub confirming: bool,
    /// Attainment by requirement.
    pub attained: Vec<Attained>,
    /// Median and 99th percentile of the time to first token.
    pub ttft_ms: (Option<f64>, Option<f64>),
    /// Reason for the result.
    pub why: String,
}

/// Result of a search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Outcome {
    /// The capacity was found.
    Found {
        /// Highest rate that was held.
        rate: f64,
        /// True if a longer run with other arrivals held it too.
        confirmed: bool,
    },
    /// Even the lowest rate missed a requirement.
    MissedAtLowest {
        /// The rate.
        rate: f64,
    },
    /// Even the highest rate met the requirements.
    HeldAtHighest {
        /// The rate.
        rate: f64,
    },
    /// The generator could not keep its schedule, so nothing is known about the server above a
    /// rate.
    GeneratorLimited {
        /// Rate that the generator could not send.
        rate: f64,
        /// Highest rate that was held.
        held: Option<f64>,
        /// Fault of the generator.
        why: String,
    },
    /// The search ended before a result.
    OutOfProbes {
        /// Highest rate that was held.
        held: Option<f64>,
    },
}
