//! The closed set of failure classes that cross a process boundary.

use serde::{Deserialize, Serialize};

/// The class of a failure, all that the other process needs. The owner of the state decides what
/// follows: the gateway retries or responds to the client, the router avoids a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// The request itself is wrong; no worker accepts it.
    Invalid,
    /// There is no room now; another worker may have some, or this one later.
    Overloaded,
    /// The failure is not the request's; send it to another worker.
    Retry,
    /// The deadline has passed.
    Deadline,
    /// The request was cancelled.
    Cancelled,
    /// A defect of Tandem.
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

    /// Returns the class as a metric label or trace attribute.
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
    /// The class.
    pub class: ErrorClass,
    /// The cause, with the values that matter.
    pub message: String,
}

impl Refusal {
    /// Creates a refusal of `class`, explained by `message`.
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into() }
    }
}
