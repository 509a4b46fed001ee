//! Gates: the change of a figure that makes a comparison fail.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::compare::{Comparison, Finding, Row};

/// An allowed change: `ttft_p99=+5%` for growth, `goodput=-2%` for decline.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Gate {
    /// Name of the figure.
    pub name: String,
    /// Allowed change, as a share of the first run's figure.
    pub allowed: f64,
}

/// A text that is not a gate.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a gate: write ttft_p99=+5%, tpot_p50=0%, goodput=-2% or errors=+10%")]
pub struct GateError(String);

impl FromStr for Gate {
    type Err = GateError;

    fn from_str(text: &str) -> Result<Self, GateError> {
        let bad = || GateError(text.to_owned());
        let (name, allowed) = text.split_once('=').ok_or_else(bad)?;
        let percent: f64 =
            allowed.strip_suffix('%').and_then(|number| number.parse().ok()).ok_or_else(bad)?;
        // A gate limits changes for the worse only.
        let wrong_way = if name == "goodput" { percent > 0.0 } else { percent < 0.0 };
        if !percent.is_finite() || wrong_way {
            return Err(bad());
        }
        Ok(Self { name: name.to_owned(), allowed: percent / 100.0 })
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={:+}%", self.name, 100.0 * self.allowed)
    }
}

/// Result of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Passage {
    /// The change is certainly within the limit.
    Kept,
    /// The interval extends beyond the limit; more requests would decide.
    Unclear,
    /// The change is certainly beyond the limit.
    Broken,
}

/// A gate that cannot be evaluated.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the message of a variant names its fields")]
pub enum PassageError {
    /// The comparison has no such figure.
    #[error("the reports have no figure {name:?} in common, only {}", known.join(", "))]
    Unknown { name: String, known: Vec<String> },
    /// The requests are too few.
    #[error("there are too few requests to judge {0}")]
    TooFew(String),
}

/// Evaluates a gate.
pub fn passage(gate: &Gate, comparison: &Comparison) -> Result<Passage, PassageError> {
    let Some(row) = comparison.rows.iter().find(|row| row.name == gate.name) else {
        let known = comparison.rows.iter().map(|row| row.name.clone()).collect();
        return Err(PassageError::Unknown { name: gate.name.clone(), known });
    };
    if row.finding == Finding::TooFew {
        return Err(PassageError::TooFew(gate.name.clone()));
    }
    Ok(judge(gate, row))
}

fn judge(gate: &Gate, row: &Row) -> Passage {
    let limit = gate.allowed * row.a;
    let (least, most) = if row.less_is_better {
        (row.low - limit, row.high - limit)
    } else {
        (limit - row.high, limit - row.low)
    };
    // The excess over the allowed change, at best and at worst.
    if most <= 0.0 {
        Passage::Kept
    } else if least > 0.0 {
        Passage::Broken
    } else {
        Passage::Unclear
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(less_is_better: bool, low: f64, high: f64) -> Row {
        Row {
            name: "ttft_p99".to_owned(),
            a: 100.0,
            b: 100.0,
            less_is_better,
            difference: f64::midpoint(low, high),
            low,
            high,
            finding: Finding::NoDifference,
        }
    }

    #[test]
    fn gates_are_read() {
        let gate: Gate = "ttft_p99=+5%".parse().unwrap();
        assert_eq!((gate.name.as_str(), gate.allowed), ("ttft_p99", 0.05));
        assert_eq!(gate.to_string(), "ttft_p99=+5%");
        assert!("goodput=-2%".parse::<Gate>().is_ok());
        for bad in ["ttft_p99", "ttft_p99=5", "ttft_p99=-5%", "goodput=+2%", "x=%", "x=inf%"] {
            assert!(bad.parse::<Gate>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_what_is_sure_keeps_or_breaks() {
        let gate: Gate = "ttft_p99=+5%".parse().unwrap();
        assert_eq!(judge(&gate, &row(true, -3.0, 4.9)), Passage::Kept);
        assert_eq!(judge(&gate, &row(true, 4.0, 6.0)), Passage::Unclear);
        assert_eq!(judge(&gate, &row(true, 5.1, 9.0)), Passage::Broken);
        let gate: Gate = "goodput=-2%".parse().unwrap();
        assert_eq!(judge(&gate, &row(false, -1.9, 3.0)), Passage::Kept);
        assert_eq!(judge(&gate, &row(false, -2.1, 3.0)), Passage::Unclear);
        assert_eq!(judge(&gate, &row(false, -9.0, -2.1)), Passage::Broken);
    }

    #[test]
    fn unknown_figures_and_few_requests_are_errors() {
        let mut few = row(true, 0.0, 0.0);
        few.finding = Finding::TooFew;
        let comparison = Comparison {
            runs: (String::new(), String::new()),
            requests: (1, 1),
            seed: 0,
            rows: vec![few],
            warnings: Vec::new(),
        };
        let judged = |text: &str| passage(&text.parse().unwrap(), &comparison);
        assert_eq!(judged("ttft_p99=+5%"), Err(PassageError::TooFew("ttft_p99".to_owned())));
        assert!(matches!(judged("ttft_p98=+5%"), Err(PassageError::Unknown { .. })));
    }
}
