//! What every part of one answer shares: its identity and its usage.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::choice::{Ended, StopReason};
use crate::generate::Finished;
use crate::vocabulary::Vocabulary;

use super::{chat, completion};

/// Which endpoint answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Chat,
    Completion,
}

impl Endpoint {
    /// Its path.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completion => "/v1/completions",
        }
    }

    /// What it does, in the words of the GenAI conventions.
    pub(crate) fn operation(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completion => "text_completion",
        }
    }

    /// Name of its root span.
    pub(crate) fn span(self) -> &'static str {
        match self {
            Self::Chat => "POST /v1/chat/completions",
            Self::Completion => "POST /v1/completions",
        }
    }

    /// What its ids begin with.
    pub(crate) fn id_prefix(self) -> &'static str {
        match self {
            Self::Chat => "chatcmpl-",
            Self::Completion => "cmpl-",
        }
    }
}

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

/// Tokens of an answer. The prompt counts once, however many choices it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: u64,
    pub(crate) completion_tokens: u64,
    pub(crate) cached_tokens: u64,
}

impl Usage {
    pub(crate) fn json(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": { "cached_tokens": self.cached_tokens },
        })
    }
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
