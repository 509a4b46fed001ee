//! Requests as clients write them, checked field by field.
//!
//! A field that is not known is ignored, as clients expect; a field that is known and not supported
//! is refused by name, because ignoring it would give a wrong answer.

mod chat;
mod common;
mod completion;
mod fields;
mod messages;
mod unsupported;

pub(crate) use chat::ChatRequest;
pub(crate) use common::{GenerationParams, StreamParams};
pub(crate) use completion::CompletionRequest;
pub(crate) use fields::{Fields, integer, wrong};

use tracing::debug;

/// What bounds a request beyond the protocol's own limits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Most choices of one request: `n` times its prompts.
    pub(crate) choices_max: u32,
    /// Tokens of the vocabulary.
    pub(crate) vocabulary: u32,
}

/// Says which fields were ignored.
fn ignore(fields: &Fields) {
    for name in fields.left() {
        let name: String = name.chars().take(64).collect();
        debug!(field = name, "unknown request field ignored");
    }
}
