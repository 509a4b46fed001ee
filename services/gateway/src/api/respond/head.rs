//! The fields that every part of one response shares.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{chat, completion};
use crate::api::choices::FinishedChoice;
use crate::endpoint::Endpoint;
use crate::observe::usage::Usage;
use crate::text::Vocabulary;
use crate::text::assembler::{ChoiceEnd, StopReason};

/// The identity of a response.
#[derive(Clone)]
pub(crate) struct ResponseHead {
    pub(crate) endpoint: Endpoint,
    pub(crate) id: String,
    pub(crate) created_s: u64,
    pub(crate) model: String,
    pub(crate) fingerprint: String,
    pub(crate) vocabulary: Arc<dyn Vocabulary>,
    /// True if log-probabilities are part of the response.
    pub(crate) logprobs: bool,
}

impl ResponseHead {
    /// Returns the whole response body.
    pub(crate) fn whole(&self, choices: Vec<FinishedChoice>, usage: &Usage) -> Value {
        let choices = choices.into_iter();
        let (object, choices): (&str, Vec<Value>) = match self.endpoint {
            Endpoint::Chat => {
                ("chat.completion", choices.map(|choice| chat::choice(self, choice)).collect())
            }
            Endpoint::Completion => (
                "text_completion",
                choices.map(|choice| completion::choice(self, choice)).collect(),
            ),
        };
        json!({
            "id": self.id,
            "object": object,
            "created": self.created_s,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
            "usage": usage.json(),
        })
    }
}

/// Returns `stop_reason`: the client's stop string or stop token, `null` for the model's own.
pub(super) fn stop_reason(ended: &ChoiceEnd) -> Value {
    match &ended.stop {
        None => Value::Null,
        Some(StopReason::Text(text)) => text.as_str().into(),
        Some(StopReason::Token(token)) => (*token).into(),
    }
}
