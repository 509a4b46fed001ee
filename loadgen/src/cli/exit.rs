//! How commands end, and the exit status that says so.

use crate::report::Report;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// As asked.
    Good,
    /// The generator does not believe its own figures.
    Invalid,
    /// Not one request was answered.
    NothingCompleted,
    /// An SLO is missed at every rate, or a gate was not kept.
    Missed,
    /// The operator ended it.
    CutShort,
}

impl Ending {
    /// How the run of `report` ended.
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

    /// The exit status.
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
