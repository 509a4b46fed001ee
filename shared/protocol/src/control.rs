//! Messages between the parties of a running request: hand-over, keep-alive, repair, cancellation.

use serde::{Deserialize, Serialize};

use crate::blocks::BlockHash;
use crate::ids::{RequestKey, TokenId, WorkerId};
use crate::token::Event;

/// Most keys of one [`Keep`].
pub const KEEP_KEYS_MAX: usize = 8192;

/// Prefill → decode: the prompt is computed and its blocks are in the store.
///
/// Sending it twice is harmless. When the first token already ended the sequence, decode only
/// frees what it reserved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptDone {
    /// The request and attempt.
    pub key: RequestKey,
    /// Who says so.
    pub prefill: WorkerId,
    /// The token sampled from the last position; decode continues after it.
    pub first_token: Option<TokenId>,
    /// True when the sequence ended with the first token.
    pub finished: bool,
    /// Blocks that could not be stored; decode computes from the first of them on.
    pub unstored: Vec<BlockHash>,
}

/// Anyone → worker: stop within one prefill chunk or one decode step and free everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancel {
    /// The request; every attempt up to this one is given up.
    pub key: RequestKey,
    /// Why, for logs and counters.
    pub reason: CancelReason,
}

/// Why a request was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CancelReason {
    /// The client closed its connection.
    ClientGone,
    /// The gateway found a stop string.
    StopString,
    /// The deadline passed.
    Deadline,
    /// A newer attempt runs elsewhere.
    Superseded,
    /// The gateway is shutting down.
    Shutdown,
}

impl CancelReason {
    /// Every reason.
    pub const ALL: [Self; 5] =
        [Self::ClientGone, Self::StopString, Self::Deadline, Self::Superseded, Self::Shutdown];

    /// The reason as a metric label or trace attribute.
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

/// The handler has done what the message asks, now or before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledged {}

/// Gateway → worker, every second: these requests are still wanted.
///
/// A worker frees a request whose lease was not renewed; so the death of a gateway, too, leaks
/// nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keep {
    /// Requests and attempts that the gateway believes to be on this worker.
    pub keys: Vec<RequestKey>,
}

/// Worker → gateway: those of the asked keys that it does not have (restarted, expired, done).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepReply {
    /// Keys unknown here. A key that just finished is unknown too; its events are on their way.
    pub unknown: Vec<RequestKey>,
}

/// Gateway → worker: send me the events of this request again, from an index on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missed {
    /// The request and attempt.
    pub key: RequestKey,
    /// First index wanted.
    pub from: u32,
}

/// Worker → gateway: the events asked for that are still remembered, in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MissedReply {
    /// Empty when nothing newer exists yet or the request is forgotten.
    pub events: Vec<Event>,
    /// False when the worker no longer knows the request.
    pub known: bool,
}
