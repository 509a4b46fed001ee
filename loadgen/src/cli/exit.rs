//! Endings of commands, and their exit statuses.

use crate::report::Report;

/// Ending of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Success.
    Good,
    /// The figures may describe the generator instead of the server.
    Invalid,
    /// No request completed.
    NothingCompleted,
    /// An SLO was missed at every rate, or a gate failed.
    Missed,
    /// The operator ended the run.
    CutShort,
}

impl Ending {
    /// Returns the ending of the run of `report`.
    pub fn of(report: &Report) -> Self {
        if report.cut_short.is_some() {
            Self::CutShort
        } else if report.counts.completed == 0 {
            Self::NothingCompleted
        } else if report.verdict.valid {
            Self::Good
        } else {
            Self::Invalid
        }
    }

    /// Returns the exit status.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Good => 0,
            Self::Invalid => 3,
            Self::NothingCompleted => 4,
            Self::Missed => 5,
            Self::CutShort => 130,
        }
    }
}
