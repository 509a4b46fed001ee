//! Requests to the kvstore service: metadata only, never block bodies.

use serde::{Deserialize, Serialize};

use crate::blocks::{BlockHash, ModelFingerprint};
use crate::ids::RequestKey;

/// Most blocks of one lookup: a sequence of a million tokens.
pub const LOOKUP_BLOCKS_MAX: usize = 65_536;

/// Worker → kvstore: ensure that the stream for this model's blocks exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ensure {
    /// The model.
    pub fingerprint: ModelFingerprint,
    /// Bytes of one full block over all layers.
    pub block_bytes: u32,
}

/// kvstore → worker: the stream exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreReady {
    /// Name of the JetStream stream.
    pub stream: String,
}

/// Worker → kvstore: find the longest stored prefix of a chain and lease it to the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lookup {
    /// The model.
    pub fingerprint: ModelFingerprint,
    /// A sequence's blocks from its beginning, in order.
    pub blocks: Vec<BlockHash>,
    /// The request that reads them.
    pub key: RequestKey,
    /// Duration of the lease, counted from receipt; 0 takes no lease.
    pub lease_ms: u32,
}

/// kvstore → worker: the longest stored prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookupReply {
    /// The length of the longest stored prefix, in blocks.
    pub stored: u32,
}

/// Worker → kvstore: release the lease of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The model.
    pub fingerprint: ModelFingerprint,
    /// The request that read them.
    pub key: RequestKey,
}

/// Worker → kvstore: discard this block, whose body is damaged, so that it can be stored again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discard {
    /// The model.
    pub fingerprint: ModelFingerprint,
    /// The damaged block.
    pub block: BlockHash,
}

/// Any sender → kvstore: report the totals over all models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {}

/// kvstore → sender: totals over all models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatusReply {
    /// Streams.
    pub streams: u32,
    /// Blocks stored.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blocks under a lease.
    pub leased: u64,
    /// Blocks evicted since the start.
    pub evicted: u64,
    /// True if the index has caught up with the streams.
    pub caught_up: bool,
}
