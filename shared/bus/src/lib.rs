//! The only crate that knows NATS: typed requests, token streams, presence, and the block plane.
//!
//! [`Bus`] is a process's connection. Over it go requests to one worker or to the kvstore
//! ([`Bus::ask_worker`], [`Bus::serve_worker`]), tokens to a gateway ([`Bus::send_tokens`]), what
//! workers say about themselves ([`Presence`]), and the KV blocks of one model ([`Blocks`]).
//! What arrives is bounded, decoded and checked here; what is malformed is counted
//! ([`Bus::counters`]) and dropped, never answered.

mod blocks;
mod connect;
mod context;
mod counters;
mod errands;
mod follow;
mod polled;
mod presence;
mod request;
mod serve;
mod tokens;
mod verdicts;

pub use blocks::{
    Blocks, DeleteError, EnsureError, Expected, Fetch, Index, IndexEvent, NewBlock, Pull,
    PullError, PulledBlock, PutError, PutOutcome, StateError, StreamLimits, StreamState,
    TAP_BYTES_MAX, Tap, TapError,
};
pub use connect::{Bus, BusOptions, ConnectError};
pub use context::Context;
pub use counters::{BusCounters, DropReason};
pub use presence::{AnnounceError, PRESENCE_TTL, Presence, PresenceEvent, Watch};
pub use request::RequestError;
pub use serve::{Call, Incoming, Responder, SubscribeError};
pub use tokens::{PublishError, Tokens};
pub use verdicts::VerdictSubscription;
