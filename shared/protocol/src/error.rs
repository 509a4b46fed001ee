//! The closed set of failure classes that cross a process boundary.

use serde::{Deserialize, Serialize};

/// What the other side needs to know about a failure, and nothing more. Whoever owns the state
/// decides what follows: the gateway retries or answers the client, the router avoids a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// The request itself is wrong; no worker will take it.
    Invalid,
    /// No room now; another worker, or later, may do.
    Overloaded,
    /// Failed here through no fault of the request; send it elsewhere.
    Retry,
    /// Its deadline has passed.
    Deadline,
    /// Somebody gave it up.
    Cancelled,
    /// A defect of ours.
    Internal,
}

impl ErrorClass {
    /// Every class.
    pub const ALL: [Self; 6] = [
        Self::Invalid,
        Self::Overloaded,
        Self::Retry,
        Self::Deadline,
        Self::Cancelled,
        Self::Internal,
    ];

    /// The class as a metric label or trace attribute.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Overloaded => "overloaded",
            Self::Retry => "retry",
            Self::Deadline => "deadline",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal",
        }
    }
}

/// A refusal or failure: its class for machines, a message for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}: {message}", class.as_str())]
pub struct Refusal {
    /// What follows from it.
    pub class: ErrorClass,
    /// What happened, with the values that matter.
    pub message: String,
}

impl Refusal {
    /// A refusal of `class`, explained by `message`.
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into() }
    }
}
