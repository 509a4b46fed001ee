//! The events that workers send to the gateway while a request runs.

use serde::{Deserialize, Serialize};

use crate::error::Refusal;
use crate::ids::{RequestKey, TokenId, WorkerId};
use crate::presence::Role;

/// Most events of one batch.
pub const BATCH_EVENTS_MAX: usize = 4096;

/// Worker → gateway: the events of one step for that gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenBatch {
    /// The worker that computed it.
    pub worker: WorkerId,
    /// The events, in the order of production.
    pub events: Vec<Event>,
}

/// A [`TokenBatch`] that is written without owning its events.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct TokenBatchRef<'a> {
    /// The worker that computed it.
    pub worker: &'a WorkerId,
    /// The events, in the order of production.
    pub events: &'a [Event],
}

/// An event of one request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A token.
    Token(TokenEvent),
    /// The attempt failed.
    Failed(Failure),
}

impl Event {
    /// Returns the request and attempt of the event.
    pub fn key(&self) -> RequestKey {
        match self {
            Self::Token(event) => event.key,
            Self::Failed(failure) => failure.key,
        }
    }
}

/// One generated token. Numbered, so that the gateway detects gaps and drops repetitions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenEvent {
    /// The request and attempt.
    pub key: RequestKey,
    /// Its index in the output, from 0 over all attempts.
    pub index: u32,
    /// The token; `None` when the sequence ended without one more (scoring a prompt).
    pub token: Option<TokenId>,
    /// Present if the job asked for it.
    pub logprob: Option<TokenLogprob>,
    /// Present on the last token.
    pub finish: Option<Finish>,
    /// Present on the first event of the leg that computed the prompt.
    pub opening: Option<Box<Opening>>,
    /// The time of sending, in microseconds since the Unix epoch.
    pub sent_us: u64,
    /// Present on the first event of each leg, if the job asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stages: Option<Box<LegStages>>,
}

/// The ends of a leg's stages, in microseconds since the Unix epoch. The first stage began at the
/// job's `sent_us`, the last ends at the event's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegStages {
    /// The worker of the leg.
    pub worker: WorkerId,
    /// Prefill if the leg computed the prompt, otherwise decode.
    pub role: Role,
    /// The sequence got its pages.
    pub admitted_us: u64,
    /// The available blocks had arrived.
    pub fetched_us: u64,
}

/// Natural log-probabilities at temperature 1, of the chosen token and the most likely ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// The log-probability of the chosen token.
    pub logprob: f32,
    /// The most likely tokens, best first.
    pub top: Vec<(TokenId, f32)>,
}

/// Facts about the prompt that only the leg that computed it has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Opening {
    /// Prompt tokens whose KV came from the worker's own pool or from the store.
    pub cached_tokens: u32,
    /// The part of them that came from the store.
    pub stored_tokens: u32,
    /// Log-probabilities of the prompt's tokens, if the job asked for them; the first has none.
    pub prompt_logprobs: Vec<Option<TokenLogprob>>,
}

/// The reason for which a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// A stop token was chosen; it is the event's token.
    Stop,
    /// `max_tokens` or the context is used up.
    Length,
}

/// An attempt that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The request and attempt.
    pub key: RequestKey,
    /// The cause.
    pub refusal: Refusal,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Attempt, ErrorClass, RequestId};

    #[test]
    fn a_borrowed_batch_is_written_like_an_owned_one() {
        let key = RequestKey { request: RequestId(7), attempt: Attempt(1) };
        let refusal = Refusal::new(ErrorClass::Retry, "busy");
        let events = vec![Event::Failed(Failure { key, refusal })];
        let batch = TokenBatch { worker: "decode-1".parse().unwrap(), events };
        let borrowed = TokenBatchRef { worker: &batch.worker, events: &batch.events };
        assert_eq!(crate::encode(&borrowed).unwrap(), crate::encode(&batch).unwrap());
    }
}
