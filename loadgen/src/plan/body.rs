//! JSON bodies of requests to the OpenAI API.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::plan::prompt::Prompt;

/// Endpoint of the OpenAI API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Endpoint {
    /// `POST /v1/completions`.
    Completions,
    /// `POST /v1/chat/completions`.
    Chat,
}

impl Endpoint {
    /// Returns the path below the base URL.
    pub fn path(self) -> &'static str {
        match self {
            Self::Completions => "/v1/completions",
            Self::Chat => "/v1/chat/completions",
        }
    }
}

/// Fields that all bodies of a run have in common.
#[derive(Clone, Debug)]
pub struct BodyTemplate {
    /// Endpoint that the bodies are for.
    pub endpoint: Endpoint,
    /// Requested model.
    pub model: String,
    /// Sampling temperature.
    pub temperature: f64,
    /// True if the server must generate up to `max_tokens`.
    pub ignore_eos: bool,
    /// Further fields, which override the others.
    pub extra: Map<String, Value>,
}

impl BodyTemplate {
    /// Returns the body for one prompt.
    pub fn body(&self, prompt: Prompt, max_tokens: u32) -> Bytes {
        let mut body = Map::new();
        body.insert("model".to_owned(), json!(self.model));
        let prompt = match (self.endpoint, prompt) {
            (_, Prompt::Chat(messages)) => alternating(&messages),
            (Endpoint::Chat, Prompt::Text(text)) => alternating(&[text]),
            (Endpoint::Completions, Prompt::Text(text)) => json!(text),
            (_, Prompt::Tokens(ids)) => json!(ids),
        };
        let field = match self.endpoint {
            Endpoint::Completions => "prompt",
            Endpoint::Chat => "messages",
        };
        body.insert(field.to_owned(), prompt);
        body.insert("max_tokens".to_owned(), json!(max_tokens));
        body.insert("temperature".to_owned(), json!(self.temperature));
        body.insert("stream".to_owned(), json!(true));
        body.insert("stream_options".to_owned(), json!({ "include_usage": true }));
        if self.ignore_eos {
            body.insert("ignore_eos".to_owned(), json!(true));
        }
        body.extend(self.extra.clone());
        Bytes::from(Value::Object(body).to_string())
    }
}

/// Returns messages of user and model in turns, the user first.
fn alternating(texts: &[String]) -> Value {
    let roles = ["user", "assistant"].into_iter().cycle();
    let messages = texts.iter().zip(roles);
    messages.map(|(text, role)| json!({ "role": role, "content": text })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_ask_for_a_stream_with_usage_and_the_whole_length() {
        let template = BodyTemplate {
            endpoint: Endpoint::Completions,
            model: "m".to_owned(),
            temperature: 0.0,
            ignore_eos: true,
            extra: json!({ "top_k": 3, "temperature": 1 }).as_object().unwrap().clone(),
        };
        let body: Value =
            serde_json::from_slice(&template.body(Prompt::Tokens(vec![5, 6]), 7)).unwrap();
        let expected = json!({
            "model": "m", "prompt": [5, 6], "max_tokens": 7, "temperature": 1, "stream": true,
            "stream_options": { "include_usage": true }, "ignore_eos": true, "top_k": 3,
        });
        assert_eq!(body, expected);
        let chat = BodyTemplate { endpoint: Endpoint::Chat, ..template };
        let body: Value =
            serde_json::from_slice(&chat.body(Prompt::Text("hi".to_owned()), 7)).unwrap();
        assert_eq!(body["messages"], json!([{ "role": "user", "content": "hi" }]));
        let turns = Prompt::Chat(["a", "b", "c"].map(str::to_owned).to_vec());
        let body: Value = serde_json::from_slice(&chat.body(turns, 7)).unwrap();
        let expected = json!([
            { "role": "user", "content": "a" },
            { "role": "assistant", "content": "b" },
            { "role": "user", "content": "c" },
        ]);
        assert_eq!(body["messages"], expected);
    }
}
