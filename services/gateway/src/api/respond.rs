//! Response bodies, whole and as server-sent events.

mod chat;
mod completion;
mod head;
mod logprobs;
mod sse;

pub(crate) use head::ResponseHead;
pub(crate) use sse::stream;
