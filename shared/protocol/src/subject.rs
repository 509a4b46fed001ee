//! NATS subjects, and the subject and reply of every request. No subject is written elsewhere.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::blocks::{BlockHash, ModelFingerprint};
use crate::control::{Acknowledged, Cancel, Keep, KeepReply, Missed, MissedReply, PromptDone};
use crate::ids::{GatewayId, WorkerId};
use crate::job::{Answer, Job};
use crate::store::{
    Discard, Ensure, Lookup, LookupReply, Release, StoreReady, StoreStatus, StoreStatusReply,
};

/// Name of the presence bucket.
pub const PRESENCE_BUCKET: &str = "tandem_workers";

/// A NATS subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject<'a> {
    /// `tandem.v1.worker.<worker>.<verb>`: request/reply to one worker.
    Worker(&'a WorkerId, &'static str),
    /// `tandem.v1.kvstore.<verb>`: request/reply to the kvstore.
    Store(&'static str),
    /// `tandem.v1.gateway.<gateway>.tokens`: one-way to one gateway.
    Tokens(&'a GatewayId),
    /// `tandem.v1.traces.verdicts`: one-way to everyone.
    Verdicts,
    /// `kvx.<to>.<namespace>.<hash>.<frame>`: a frame of a block on its way into the store.
    Put {
        /// The worker that it is meant for; `_` for the store alone.
        to: Option<&'a WorkerId>,
        /// The model's namespace.
        namespace: &'a str,
        /// The hash of the block.
        block: BlockHash,
        /// Index of the frame.
        frame: u32,
    },
    /// `kvb.<namespace>.<hash>.<frame>`: the same frame, as stored by the stream.
    Stored {
        /// The model's namespace.
        namespace: &'a str,
        /// The hash of the block.
        block: BlockHash,
        /// Index of the frame; `None` matches every frame.
        frame: Option<u32>,
    },
}

impl fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Worker(worker, verb) => write!(f, "tandem.v1.worker.{worker}.{verb}"),
            Self::Store(verb) => write!(f, "tandem.v1.kvstore.{verb}"),
            Self::Tokens(gateway) => write!(f, "tandem.v1.gateway.{gateway}.tokens"),
            Self::Verdicts => f.write_str("tandem.v1.traces.verdicts"),
            Self::Put { to, namespace, block, frame } => {
                let to = to.map_or("_", WorkerId::as_str);
                write!(f, "kvx.{to}.{namespace}.{block}.{frame}")
            }
            Self::Stored { namespace, block, frame: Some(frame) } => {
                write!(f, "kvb.{namespace}.{block}.{frame}")
            }
            Self::Stored { namespace, block, frame: None } => {
                write!(f, "kvb.{namespace}.{block}.*")
            }
        }
    }
}

/// The names around a model's stream: the stream, the subjects published to it, and the subjects it
/// stores, with the transform between the two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamNames {
    /// `KVB_<namespace>`.
    pub stream: String,
    /// `kvx.*.<namespace>.*.*`.
    pub published: String,
    /// `kvb.<namespace>.{{wildcard(2)}}.{{wildcard(3)}}`.
    pub kept: String,
}

impl StreamNames {
    /// Returns the names for a model.
    pub fn new(fingerprint: &ModelFingerprint) -> Self {
        Self::of_namespace(&fingerprint.namespace())
    }

    /// Returns the names for the model with this namespace, see [`ModelFingerprint::namespace`].
    pub fn of_namespace(namespace: &str) -> Self {
        Self {
            stream: format!("KVB_{namespace}"),
            published: format!("kvx.*.{namespace}.*.*"),
            kept: format!("kvb.{namespace}.{{{{wildcard(2)}}}}.{{{{wildcard(3)}}}}"),
        }
    }
}

/// Parses the namespace from the name of a model's stream; `None` for any other stream.
pub fn parse_stream(stream: &str) -> Option<&str> {
    let namespace = stream.strip_prefix("KVB_")?;
    let is_hex = namespace.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (namespace.len() == 16 && is_hex).then_some(namespace)
}

/// Parses a `kvb.<namespace>.<hash>.<frame>` subject; `None` for any other.
pub fn parse_stored(subject: &str) -> Option<(&str, BlockHash, u32)> {
    let mut parts = subject.split('.');
    let (tag, namespace, hash, frame) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if tag != "kvb" || parts.next().is_some() {
        return None;
    }
    Some((namespace, BlockHash::from_hex(hash)?, frame.parse().ok()?))
}

/// Returns the wildcard subject of every block put for one worker and one model.
pub fn put_to(worker: &WorkerId, namespace: &str) -> String {
    format!("kvx.{worker}.{namespace}.*.*")
}

/// Parses a `kvx.<to>.<namespace>.<hash>.<frame>` subject; `None` for any other.
pub fn parse_put(subject: &str) -> Option<(&str, BlockHash, u32)> {
    let (_, rest) = subject.strip_prefix("kvx.")?.split_once('.')?;
    let (namespace, rest) = rest.split_once('.')?;
    let (hash, frame) = rest.split_once('.')?;
    Some((namespace, BlockHash::from_hex(hash)?, frame.parse().ok()?))
}

/// A message that expects a reply.
pub trait Request: Serialize + DeserializeOwned + Send + 'static {
    /// The reply.
    type Reply: Serialize + DeserializeOwned + Send + 'static;
    /// Last part of the subject.
    const VERB: &'static str;
    /// Longest encoded form accepted, in bytes.
    const BYTES_MAX: usize;
}

/// A request to one worker: `Subject::Worker(id, VERB)`.
pub trait WorkerRequest: Request {}
/// A request to the kvstore: `Subject::Store(VERB)`.
pub trait StoreRequest: Request {}

macro_rules! request {
    ($kind:ident: $($message:ty => $reply:ty, $verb:literal, $bytes_max:expr;)*) => { $(
        impl Request for $message {
            type Reply = $reply;
            const VERB: &'static str = $verb;
            const BYTES_MAX: usize = $bytes_max;
        }
        impl $kind for $message {}
    )* };
}

request! { WorkerRequest:
    Job => Answer, "job", 6 << 20;
    PromptDone => Acknowledged, "prompt_done", 2 << 20;
    Cancel => Acknowledged, "cancel", 1 << 10;
    Keep => KeepReply, "keep", 1 << 20;
    Missed => MissedReply, "missed", 1 << 10;
}

request! { StoreRequest:
    Ensure => StoreReady, "ensure", 1 << 10;
    Lookup => LookupReply, "lookup", 3 << 20;
    Release => Acknowledged, "release", 1 << 10;
    Discard => Acknowledged, "discard", 1 << 10;
    StoreStatus => StoreStatusReply, "status", 1 << 10;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_subject_reads_back() {
        let block = BlockHash([3; 16]);
        let subject = Subject::Stored { namespace: "ab12", block, frame: Some(2) }.to_string();
        assert_eq!(parse_stored(&subject), Some(("ab12", block, 2)));
        assert_eq!(parse_stored("kvb.ab12.zz.0"), None);
        assert_eq!(parse_stored(&format!("{subject}.x")), None);
    }

    #[test]
    fn a_put_subject_reads_back() {
        let (block, worker) = (BlockHash([3; 16]), "decode-1".parse().unwrap());
        let put = |to| Subject::Put { to, namespace: "ab12", block, frame: 2 }.to_string();
        assert_eq!(parse_put(&put(Some(&worker))), Some(("ab12", block, 2)));
        assert_eq!(parse_put(&put(None)), Some(("ab12", block, 2)));
        assert!(put(Some(&worker)).starts_with(put_to(&worker, "ab12").trim_end_matches("*.*")));
        for other in ["kvx.a.b.c", "kvb.a.b.c.0", &format!("{}.x", put(None))] {
            assert_eq!(parse_put(other), None, "{other}");
        }
    }

    #[test]
    fn a_stream_name_gives_its_namespace_back() {
        let fingerprint = ModelFingerprint([0xab; 32]);
        let names = StreamNames::new(&fingerprint);
        assert_eq!(parse_stream(&names.stream), Some(fingerprint.namespace().as_str()));
        for other in ["KV_tandem_workers", "KVB_", "KVB_ABABABABABABABAB", "KVB_abababababababab0"]
        {
            assert_eq!(parse_stream(other), None, "{other}");
        }
    }
}
