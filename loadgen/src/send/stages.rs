//! The server's own split of a request into stages, as it comes in the last chunk of a stream.

use serde::{Deserialize, Serialize};

/// Header that asks the server for the split.
pub const TIMINGS_HEADER: &str = "x-tandem-timings";
/// What the header asks for.
pub const TIMINGS_STAGES: &str = "stages";

/// The most stages that are taken from one reply: chunks of a long prompt are stages of their own.
const STAGES_MAX: usize = 1024;
/// The longest name of a stage or a worker.
const NAME_MAX: usize = 128;

/// One stage of a request. Times count from the request's arrival at the server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Its name, such as `prefill.queue`.
    pub name: String,
    /// When it began.
    pub start_ms: f64,
    /// How long it took.
    pub duration_ms: f64,
    /// The worker it ran on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
}

/// What the server says about one request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// From arrival at the server to its sending of the first token.
    pub ttft_ms: f64,
    /// The stages, by start.
    pub stages: Vec<Stage>,
}

/// Why timings cannot be used.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum TimingsError {
    /// Too much of it.
    #[error("{0} stages in `timings`, at most {STAGES_MAX} are taken")]
    TooMany(usize),
    /// A name is empty or too long.
    #[error("a name of {0} bytes in `timings`, from 1 to {NAME_MAX} are taken")]
    Name(usize),
    /// Not a time.
    #[error("{what} of {value} ms in `timings`, expected a finite time that is not negative")]
    Time {
        /// Of which field.
        what: &'static str,
        /// What it says.
        value: f64,
    },
}

impl Timings {
    /// Refuses what no server that measures would say.
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
