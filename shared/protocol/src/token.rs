//! What workers tell the gateway while a request runs.

use serde::{Deserialize, Serialize};

use crate::error::Refusal;
use crate::ids::{RequestKey, TokenId, WorkerId};
use crate::presence::Role;

/// Most events of one batch.
pub const BATCH_EVENTS_MAX: usize = 4096;

/// Worker → gateway: everything one step produced for that gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenBatch {
    /// Who computed it.
    pub worker: WorkerId,
    /// In the order of production.
    pub events: Vec<Event>,
}

/// One thing that happened to one request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A token.
    Token(TokenEvent),
    /// This attempt ended without an answer.
    Failed(Failure),
}

impl Event {
    /// Which request and attempt it is about.
    pub fn key(&self) -> RequestKey {
        match self {
            Self::Token(event) => event.key,
            Self::Failed(failure) => failure.key,
        }
    }
}

/// One generated token. Numbered, so that a gap is seen and a repetition dropped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenEvent {
    /// The request and attempt.
    pub key: RequestKey,
    /// Its place in the output, from 0 over all attempts.
    pub index: u32,
    /// The token; `None` when the sequence ended without one more (scoring a prompt).
    pub token: Option<TokenId>,
    /// Present when asked for.
    pub logprob: Option<TokenLogprob>,
    /// Present on the last token.
    pub finish: Option<Finish>,
    /// Present on the first event of the leg that computed the prompt.
    pub opening: Option<Box<Opening>>,
    /// When it was sent, in microseconds since the Unix epoch.
    pub sent_us: u64,
    /// Present on the first event of each leg, when the job asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stages: Option<Box<LegStages>>,
}

/// When the stages of a leg ended, in microseconds since the Unix epoch. The first began with the
/// job's `sent_us`, the last ended with the event's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegStages {
    /// Who worked.
    pub worker: WorkerId,
    /// What it did first: compute the prompt, or generate.
    pub role: Role,
    /// The sequence had its pages.
    pub admitted_us: u64,
    /// The blocks that could be had were here.
    pub fetched_us: u64,
}

/// Natural log-probabilities at temperature 1, of the chosen token and the most likely ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// Of the chosen token.
    pub logprob: f32,
    /// The most likely tokens, best first.
    pub top: Vec<(TokenId, f32)>,
}

/// What the leg that computed the prompt knows and nobody else does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Opening {
    /// Prompt tokens whose KV was taken from the worker's own pool or from the store.
    pub cached_tokens: u32,
    /// The part of them that came from the store.
    pub stored_tokens: u32,
    /// Log-probabilities of the prompt's tokens, when asked for; the first has none.
    pub prompt_logprobs: Vec<Option<TokenLogprob>>,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// One of the stop tokens was chosen (it is the event's token).
    Stop,
    /// `max_tokens` or the context is used up.
    Length,
}

/// An attempt that ended without an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The request and attempt.
    pub key: RequestKey,
    /// Why.
    pub refusal: Refusal,
}
