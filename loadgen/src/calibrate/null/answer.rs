//! Requests to the null server, and the content of its responses.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use chassis::telemetry::names::stage;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::NullOptions;

/// The parts of a request that the server uses.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Completion {
    pub(super) prompt_tokens: u32,
    pub(super) output_tokens: u32,
    pub(super) stream: bool,
    pub(super) usage: bool,
}

#[derive(Deserialize)]
struct Fields {
    prompt: Option<Length>,
    messages: Option<Vec<Message>>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    #[serde(default)]
    stream: bool,
    stream_options: Option<StreamOptions>,
}

#[derive(Deserialize)]
struct Message {
    content: Length,
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

/// The number of tokens of a prompt: its ids, or its words.
struct Length(u32);

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Count;
        impl<'de> Visitor<'de> for Count {
            type Value = Length;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of token ids")
            }

            fn visit_str<E>(self, text: &str) -> Result<Length, E> {
                Ok(Length(text.split_whitespace().count() as u32))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Length, A::Error> {
                let mut count = 0;
                while items.next_element::<IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(Length(count))
            }
        }
        deserializer.deserialize_any(Count)
    }
}

impl Completion {
    /// Parses the body of a request. The error says what is wrong with it.
    pub(super) fn parse(body: &[u8], options: &NullOptions) -> Result<Self, String> {
        let fields: Fields = serde_json::from_slice(body).map_err(|e| e.to_string())?;
        let prompt_tokens = match (&fields.prompt, &fields.messages) {
            (Some(prompt), None) => prompt.0,
            (None, Some(messages)) => messages.iter().map(|message| message.content.0).sum(),
            _ => return Err("expected either prompt or messages".to_owned()),
        };
        let asked = fields.max_completion_tokens.or(fields.max_tokens);
        let output_tokens = asked.unwrap_or(options.tokens).max(1);
        if u64::from(prompt_tokens) + u64::from(output_tokens) > u64::from(options.context) {
            return Err(format!(
                "{prompt_tokens} + {output_tokens} tokens exceed the context of {}",
                options.context
            ));
        }
        let usage = fields.stream_options.is_some_and(|options| options.include_usage);
        Ok(Self { prompt_tokens, output_tokens, stream: fields.stream, usage })
    }

    fn token_counts(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.output_tokens,
            "total_tokens": u64::from(self.prompt_tokens) + u64::from(self.output_tokens),
            "prompt_tokens_details": { "cached_tokens": 0 },
        })
    }
}

/// Bytes that all streams have in common, made once.
pub(super) struct Chunks {
    /// Event of one token.
    pub(super) token: Bytes,
    model: String,
    chat: bool,
}

impl Chunks {
    pub(super) fn new(model: &str, chat: bool) -> Self {
        let token = body(model, chat, json!([choice(chat, Some(" the"), None)]));
        Self { token: event(&token.to_string()).into(), model: model.to_owned(), chat }
    }

    /// Returns everything after the last token.
    pub(super) fn ending(&self, completion: &Completion, timings: Option<Value>) -> String {
        let mut last =
            body(&self.model, self.chat, json!([choice(self.chat, None, Some("length"))]));
        let mut text = String::new();
        if completion.usage {
            text += &event(&last.to_string());
            last = body(&self.model, self.chat, json!([]));
            last["usage"] = completion.token_counts();
        }
        if let Some(timings) = timings {
            last["timings"] = timings;
        }
        text + &event(&last.to_string()) + &event("[DONE]")
    }
}

/// Returns the response to a request without a stream.
pub(super) fn whole(
    completion: &Completion,
    model: &str,
    chat: bool,
    timings: Option<Value>,
) -> Value {
    let text = " the".repeat(completion.output_tokens as usize);
    let mut choice = json!({ "index": 0, "finish_reason": "length" });
    if chat {
        choice["message"] = json!({ "role": "assistant", "content": text });
    } else {
        choice["text"] = json!(text);
    }
    let mut answer = body(model, chat, json!([choice]));
    if chat {
        answer["object"] = json!("chat.completion");
    }
    answer["usage"] = completion.token_counts();
    if let Some(timings) = timings {
        answer["timings"] = timings;
    }
    answer
}

/// Times of a request at the server.
#[derive(Clone, Copy)]
pub(super) struct Times {
    /// Arrival of the whole request.
    pub(super) arrived: Instant,
    /// Start, once the request had its slot.
    pub(super) started: Instant,
    /// First token.
    pub(super) first: Instant,
}

/// Returns the stage times of a request whose last token was sent at `last`.
pub(super) fn timings(times: Times, last: Instant) -> Value {
    let Times { arrived, started, first } = times;
    let ms = |span: Duration| span.as_secs_f64() * 1e3;
    let stage = |name: &str, from: Instant, to: Instant| {
        let (start, duration) = (ms(from - arrived), ms(to - from));
        json!({ "name": name, "start_ms": start, "duration_ms": duration, "worker": "null" })
    };
    json!({
        "ttft_ms": ms(first - arrived),
        "stages": [
            stage(stage::PREFILL_QUEUE, arrived, started),
            stage(stage::PREFILL_COMPUTE, started, first),
            stage(stage::DECODE_GENERATE, first, last),
        ],
    })
}

fn body(model: &str, chat: bool, choices: Value) -> Value {
    let object = if chat { "chat.completion.chunk" } else { "text_completion" };
    json!({ "id": "null-0", "object": object, "created": 0, "model": model, "choices": choices })
}

fn choice(chat: bool, text: Option<&str>, finish: Option<&str>) -> Value {
    match (chat, text) {
        (true, Some(text)) => {
            json!({ "index": 0, "delta": { "content": text }, "finish_reason": finish })
        }
        (true, None) => json!({ "index": 0, "delta": {}, "finish_reason": finish }),
        (false, text) => {
            let text = text.unwrap_or_default();
            json!({ "index": 0, "text": text, "logprobs": null, "finish_reason": finish })
        }
    }
}

fn event(data: &str) -> String {
    format!("data: {data}\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_counted_and_the_context_kept() {
        let options = NullOptions { context: 20, tokens: 4, ..NullOptions::default() };
        let read = |text: &str| Completion::parse(text.as_bytes(), &options);
        let completion =
            read(r#"{"prompt":[5,6,7],"max_tokens":9,"stream":true,"ignore_eos":true}"#);
        let expected =
            Completion { prompt_tokens: 3, output_tokens: 9, stream: true, usage: false };
        assert_eq!(completion, Ok(expected));
        let chat = r#"{"messages":[{"role":"user","content":"a b c"},{"content":"d"}],
                       "stream_options":{"include_usage":true}}"#;
        let completion = read(chat).unwrap();
        assert_eq!(
            (completion.prompt_tokens, completion.output_tokens, completion.usage),
            (4, 4, true)
        );
        let long = read(r#"{"prompt":"a b","max_tokens":19}"#);
        assert_eq!(long, Err("2 + 19 tokens exceed the context of 20".to_owned()));
        for wrong in ["", "{}", r#"{"prompt":5}"#, r#"{"prompt":"a","messages":[]}"#] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
