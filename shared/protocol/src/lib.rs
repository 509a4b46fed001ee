//! Everything that crosses a process boundary: ids, block hashes, messages, subjects, error classes;
//! and the few pure functions that every crate shares.
//!
//! Pure data and functions: no I/O, no clock, no entropy. Every serialized wire type of the workspace lives
//! here; control messages are MessagePack maps with named fields ([`wire`]), block bodies are raw
//! bytes described by a header ([`frame`]).

pub mod backoff;
pub mod blocks;
pub mod control;
pub mod error;
pub mod frame;
pub mod ids;
pub mod job;
pub mod presence;
pub mod random;
pub mod simulated;
pub mod store;
pub mod subject;
pub mod token;
pub mod trace;
pub mod url;
pub mod wire;

pub use backoff::Backoff;
pub use blocks::{BLOCK_TOKENS, BlockChain, BlockHash, FileDigest, ModelFingerprint, Scope, hex};
pub use control::{Acknowledged, Cancel, CancelReason, Keep, KeepReply, Missed, PromptDone};
pub use error::{ErrorClass, Refusal};
pub use frame::{BlockFrame, FrameError};
pub use ids::{Attempt, GatewayId, IdError, RequestId, RequestKey, TokenId, WorkerId};
pub use job::{Answer, Job, Leg, Sampling, Stopping};
pub use presence::{PoolState, Role, Speed, StepCost, WorkerState};
pub use random::{GOLDEN_GAMMA, SplitMix64, mix64};
pub use store::{
    Discard, Ensure, Lookup, LookupReply, Release, StoreReady, StoreStatus, StoreStatusReply,
};
pub use subject::{Request, Subject};
pub use token::{Event, Failure, Finish, LegStages, Opening, TokenBatch, TokenEvent, TokenLogprob};
pub use trace::{TraceVerdicts, Traceparent};
pub use url::NatsUrl;
pub use wire::{WireError, decode, encode};
