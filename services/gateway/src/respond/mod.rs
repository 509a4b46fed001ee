//! What clients get back.

mod chat;
mod completion;
mod error;
mod logprobs;
mod reply;
mod sse;

pub(crate) use error::{ApiError, json_response};
pub(crate) use reply::{Endpoint, Reply, Usage};
pub(crate) use sse::stream;
