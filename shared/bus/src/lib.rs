//! The only crate that uses NATS: typed requests, token streams, presence, and the block plane.
//!
//! [`Bus`] is a process's connection. It carries requests to one worker or to the kvstore
//! ([`Bus::ask_worker`], [`Bus::serve_worker`]), tokens to a gateway ([`Bus::send_tokens`]), the
//! presence of workers ([`Presence`]), and the KV blocks of one model ([`Blocks`]).
//! Received messages are bounded, decoded and checked here; malformed ones are counted
//! ([`Bus::counters`]) and dropped without a reply.

mod blocks;
mod bursts;
mod connect;
mod context;
mod counters;
mod deferred;
mod follow;
mod messages;
mod presence;
mod request;
mod serve;
mod tokens;
mod verdicts;

pub use blocks::{
    BlockSubscription, Blocks, DeleteError, EnsureError, Expectation, Fetch, Index, IndexEvent,
    LISTEN_BYTES_MAX, ListenError, NewBlock, Pull, PullError, PulledBlock, PutError, PutErrorKind,
    PutOutcome, StateError, StreamLimits, StreamState,
};
pub use connect::{Bus, BusOptions, ConnectError};
pub use context::Context;
pub use counters::{BusCounters, DropReason};
pub use messages::{PublishError, SubscribeError};
pub use presence::{AnnounceError, PRESENCE_TTL, Presence, PresenceEvent, Watch};
pub use request::{RequestError, RequestErrorKind};
pub use serve::{Call, Incoming, Responder};
pub use tokens::Tokens;
pub use verdicts::VerdictSubscription;
