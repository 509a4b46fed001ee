//! The stages of a request that the server reports in the last chunk of a stream.

use serde::{Deserialize, Serialize};

/// Header that requests the stages.
pub const TIMINGS_HEADER: &str = "x-tandem-timings";
/// Value of the header.
pub const TIMINGS_STAGES: &str = "stages";

/// Largest number of stages of one reply. Each chunk of a long prompt is a stage.
const STAGES_MAX: usize = 1024;
/// Longest name of a stage or a worker.
const NAME_MAX: usize = 128;

/// One stage of a request. Times count from the request's arrival at the server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Name, such as `prefill.queue`.
    pub name: String,
    /// Start.
    pub start_ms: f64,
    /// Duration.
    pub duration_ms: f64,
    /// Worker that the stage ran on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
}

/// Times of one request, as the server reports them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// Time from arrival at the server until it sends the first token.
    pub ttft_ms: f64,
    /// Stages, by start.
    pub stages: Vec<Stage>,
}

/// Timings that cannot be used.
#[derive(Debug, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "the message of a variant names its fields")]
pub enum TimingsError {
    /// Too many stages.
    #[error("{0} stages in `timings`, at most {STAGES_MAX} are taken")]
    TooMany(usize),
    /// A name is empty or too long.
    #[error("a name of {0} bytes in `timings`, from 1 to {NAME_MAX} are taken")]
    Name(usize),
    /// Not a time.
    #[error("{what} of {value} ms in `timings`, expected a finite time that is not negative")]
    Time { what: &'static str, value: f64 },
}

impl Timings {
    /// Checks that all values are possible measurements.
    pub fn check(&self) -> Result<(), TimingsError> {
        if self.stages.len() > STAGES_MAX {
            return Err(TimingsError::TooMany(self.stages.len()));
        }
        let time = |what, value: f64| {
            let good = value.is_finite() && value >= 0.0;
            if good { Ok(()) } else { Err(TimingsError::Time { what, value }) }
        };
        time("ttft_ms", self.ttft_ms)?;
        for stage in &self.stages {
            for name in [Some(&stage.name), stage.worker.as_ref()].into_iter().flatten() {
                if !(1..=NAME_MAX).contains(&name.len()) {
                    return Err(TimingsError::Name(name.len()));
                }
            }
            time("start_ms", stage.start_ms)?;
            time("duration_ms", stage.duration_ms)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timings(name: &str, duration_ms: f64) -> Timings {
        let stage =
            Stage { name: name.to_owned(), start_ms: 0.5, duration_ms, worker: Some("p".into()) };
        Timings { ttft_ms: 4.0, stages: vec![stage] }
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        assert_eq!(timings("prefill.queue", 3.0).check(), Ok(()));
        assert_eq!(timings("", 3.0).check(), Err(TimingsError::Name(0)));
        assert_eq!(timings(&"x".repeat(129), 3.0).check(), Err(TimingsError::Name(129)));
        for bad in [-1.0, f64::INFINITY] {
            let expected = TimingsError::Time { what: "duration_ms", value: bad };
            assert_eq!(timings("route", bad).check(), Err(expected));
        }
        let mut many = timings("route", 1.0);
        many.stages = vec![many.stages[0].clone(); STAGES_MAX + 1];
        assert_eq!(many.check(), Err(TimingsError::TooMany(STAGES_MAX + 1)));
    }
}
