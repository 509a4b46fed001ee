//! Request bodies, parsed and checked field by field.
//!
//! An unknown field is ignored, as clients expect. A field that is known and not supported is refused
//! by name: to ignore it would give a wrong answer.

mod chat;
mod common;
mod completion;
mod fields;
mod messages;
mod unsupported;

pub(crate) use chat::ChatRequest;
pub(crate) use common::{CommonParams, StreamParams};
pub(crate) use completion::CompletionRequest;
pub(crate) use fields::{Fields, integer, wrong};

use protocol::Sampling;
use tracing::debug;

/// The limits beyond those of the protocol, and the defaults, that parsing needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ParseContext<'a> {
    /// Most choices of one request: `n` times its prompts.
    pub(crate) choices_max: u32,
    /// Size of the vocabulary in tokens.
    pub(crate) vocabulary: u32,
    /// Sampling parameters of requests that do not set them.
    pub(crate) sampling: &'a Sampling,
}

/// Logs the fields that were ignored.
fn ignore(fields: &Fields) {
    for name in fields.unknown() {
        let name: String = name.chars().take(64).collect();
        debug!(field = name, "unknown request field ignored");
    }
}
