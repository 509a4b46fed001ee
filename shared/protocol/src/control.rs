//! Messages between the parties of a running request: hand-over, keep-alive, repair, cancellation.

use serde::{Deserialize, Serialize};

use crate::blocks::BlockHash;
use crate::ids::{RequestKey, TokenId, WorkerId};
use crate::token::Event;

/// Most keys in one [`Keep`].
pub const KEEP_KEYS_MAX: usize = 8192;

/// Prefill → decode: the prompt is computed and its blocks are stored.
///
/// Sending it twice is harmless. If the first token ended the sequence, the decode worker only frees
/// its reservation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptDone {
    /// The request and attempt.
    pub key: RequestKey,
    /// The prefill worker.
    pub prefill: WorkerId,
    /// The token sampled from the last position; decode continues after it.
    pub first_token: Option<TokenId>,
    /// True when the sequence ended with the first token.
    pub finished: bool,
    /// Blocks that could not be stored; decode computes from the first of them on.
    pub unstored: Vec<BlockHash>,
}

/// Any sender → worker: stop within one prefill chunk or one decode step and free everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancel {
    /// The request; every attempt up to this one is cancelled.
    pub key: RequestKey,
    /// The reason, for logs and counters.
    pub reason: CancelReason,
}

/// The reason of a cancellation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CancelReason {
    /// The client closed its connection.
    ClientGone,
    /// The gateway found a stop string.
    StopString,
    /// The deadline passed.
    Deadline,
    /// A newer attempt runs on another worker.
    Superseded,
    /// The gateway is shutting down.
    Shutdown,
}

impl CancelReason {
    /// Every reason.
    pub const ALL: [Self; 5] =
        [Self::ClientGone, Self::StopString, Self::Deadline, Self::Superseded, Self::Shutdown];

    /// Returns the reason as a metric label or trace attribute.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClientGone => "client_gone",
            Self::StopString => "stop_string",
            Self::Deadline => "deadline",
            Self::Superseded => "superseded",
            Self::Shutdown => "shutdown",
        }
    }
}

/// The reply of a handler that did what the message asks, now or before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledged {}

/// Gateway → worker, every second: renews the leases of these requests.
///
/// A worker frees a request whose lease expired, so that the death of a gateway leaks nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keep {
    /// Requests and attempts that the gateway has on this worker.
    pub keys: Vec<RequestKey>,
}

/// Worker → gateway: those of the keys that it does not have (restarted, expired, ended).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepReply {
    /// Unknown keys. A request that just ended is unknown, too; its events are on their way.
    pub unknown: Vec<RequestKey>,
}

/// Gateway → worker: send the events of this request again, from an index on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missed {
    /// The request and attempt.
    pub key: RequestKey,
    /// The first index to send.
    pub from: u32,
}

/// Worker → gateway: those of the events that are still remembered, in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MissedReply {
    /// The events; empty if none is newer or the request is forgotten.
    pub events: Vec<Event>,
    /// False if the request is forgotten.
    pub known: bool,
}
