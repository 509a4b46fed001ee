//! Questions to the kvstore service: metadata only, never block bodies.

use serde::{Deserialize, Serialize};

use crate::blocks::{BlockHash, ModelFingerprint};
use crate::ids::RequestKey;

/// Most blocks of one lookup: a sequence of a million tokens.
pub const LOOKUP_BLOCKS_MAX: usize = 65_536;

/// Worker → kvstore: see that the stream for this model's blocks exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ensure {
    /// Whose blocks.
    pub fingerprint: ModelFingerprint,
    /// Bytes of one full block over all layers.
    pub block_bytes: u32,
}

/// kvstore → worker: the stream exists under this name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreReady {
    /// Name of the JetStream stream.
    pub stream: String,
}

/// Worker → kvstore: how much of this chain is stored? What is found is leased to the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lookup {
    /// Whose blocks.
    pub fingerprint: ModelFingerprint,
    /// A sequence's blocks from its beginning, in order.
    pub blocks: Vec<BlockHash>,
    /// Who reads them.
    pub key: RequestKey,
    /// How long the found blocks stay, counted from receipt; 0 takes no lease.
    pub lease_ms: u32,
}

/// kvstore → worker: the longest stored prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookupReply {
    /// How many of the asked blocks, from the first on, are stored.
    pub stored: u32,
}

/// Worker → kvstore: the lease is not needed any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Whose blocks.
    pub fingerprint: ModelFingerprint,
    /// Who read them.
    pub key: RequestKey,
}

/// Worker → kvstore: this block's body is damaged; forget it, so that it can be stored again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discard {
    /// Whose block.
    pub fingerprint: ModelFingerprint,
    /// The damaged block.
    pub block: BlockHash,
}

/// Anyone → kvstore: how are you?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {}

/// kvstore → anyone: totals over all models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatusReply {
    /// Streams owned.
    pub streams: u32,
    /// Blocks stored.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blocks under a lease.
    pub leased: u64,
    /// Evicted since the start.
    pub evicted: u64,
    /// True when the index has caught up with the streams.
    pub caught_up: bool,
}
