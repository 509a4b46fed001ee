//! What every part of one answer shares: its identity and its usage.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::choices::Finished;
use crate::text::assembler::{Ended, StopReason};
use crate::text::vocabulary::Vocabulary;

use super::{chat, completion};
use crate::endpoint::Endpoint;
use crate::observe::usage::Usage;

/// The identity of an answer.
#[derive(Clone)]
pub(crate) struct Reply {
    pub(crate) endpoint: Endpoint,
    pub(crate) id: String,
    pub(crate) created_s: u64,
    pub(crate) model: String,
    pub(crate) fingerprint: String,
    pub(crate) vocabulary: Arc<dyn Vocabulary>,
    /// Whether log-probabilities are part of the answer.
    pub(crate) logprobs: bool,
}

impl Reply {
    /// The whole answer at once.
    pub(crate) fn whole(&self, choices: Vec<Finished>, usage: &Usage) -> Value {
        let (object, choices): (&str, Vec<Value>) = match self.endpoint {
            Endpoint::Chat => {
                let choice = |choice| chat::choice(self, choice);
                ("chat.completion", choices.into_iter().map(choice).collect())
            }
            Endpoint::Completion => {
                let choice = |choice| completion::choice(self, choice);
                ("text_completion", choices.into_iter().map(choice).collect())
            }
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

/// `stop_reason`: the client's stop string or stop token, `null` for the model's own.
pub(super) fn stop_reason(ended: Option<&Ended>) -> Value {
    match ended.and_then(|ended| ended.stop.as_ref()) {
        None => Value::Null,
        Some(StopReason::Text(text)) => text.as_str().into(),
        Some(StopReason::Token(token)) => (*token).into(),
    }
}
