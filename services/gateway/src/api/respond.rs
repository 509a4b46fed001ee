//! What clients get back.

mod chat;
mod completion;
mod logprobs;
mod reply;
mod sse;

pub(crate) use reply::Reply;
pub(crate) use sse::stream;
