//! SLOs of requests: bounds on their times.

use std::fmt;
use std::str::FromStr;

use traces::units::Nanos;

/// A text that is not an SLO.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an SLO: write ttft=500ms, tpot=50ms or e2e=5s")]
pub struct SloError(String);

/// Metric that an SLO bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SloMetric {
    /// Time to first token.
    Ttft,
    /// Time per output token after the first.
    Tpot,
    /// Time to the last token.
    E2e,
}

impl SloMetric {
    /// Returns the name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ttft => "ttft",
            Self::Tpot => "tpot",
            Self::E2e => "e2e",
        }
    }
}

/// A bound that a good request meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slo {
    /// Bounded metric.
    pub metric: SloMetric,
    /// Largest good value.
    pub bound: Nanos,
}

impl FromStr for Slo {
    type Err = SloError;

    fn from_str(text: &str) -> Result<Self, SloError> {
        let bad = || SloError(text.to_owned());
        let (name, bound) = text.split_once('=').ok_or_else(bad)?;
        let metric = match name.trim() {
            "ttft" => SloMetric::Ttft,
            "tpot" => SloMetric::Tpot,
            "e2e" => SloMetric::E2e,
            _ => return Err(bad()),
        };
        Ok(Self { metric, bound: bound.parse().map_err(|_| bad())? })
    }
}

impl fmt::Display for Slo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.metric.name(), self.bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use traces::units::NS_PER_MS;

    #[test]
    fn an_slo_names_a_metric_and_a_duration() {
        let slo: Slo = "ttft=500ms".parse().unwrap();
        assert_eq!((slo.metric, slo.bound), (SloMetric::Ttft, Nanos(500 * NS_PER_MS)));
        assert!("itl=5ms".parse::<Slo>().is_err());
        assert!("ttft=5".parse::<Slo>().is_err());
    }
}
