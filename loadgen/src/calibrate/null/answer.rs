//! What the null server is asked for, and the bytes it answers with.

use std::fmt;
use std::time::Duration;

use chassis::telemetry::names::stage;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::NullOptions;

/// A request as far as the server heeds it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ask {
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

/// How many tokens a prompt is taken to have: its ids, or its words.
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

impl Ask {
    /// Reads the body of a request, or says what is wrong with it.
    pub(super) fn read(body: &[u8], options: &NullOptions) -> Result<Self, String> {
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

/// The bytes that every stream has in common, made once.
pub(super) struct Chunks {
    /// Head of the answer and first token, in one write.
    pub(super) opening: Vec<u8>,
    /// Every further token.
    pub(super) token: Vec<u8>,
    model: String,
    chat: bool,
}

impl Chunks {
    pub(super) fn new(model: &str, chat: bool) -> Self {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                    cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";
        let token =
            event(&body(model, chat, json!([choice(chat, Some(" the"), None)])).to_string());
        let opening = format!("{head}{token}").into_bytes();
        Self { opening, token: token.into_bytes(), model: model.to_owned(), chat }
    }

    /// Everything behind the last token.
    pub(super) fn ending(&self, ask: &Ask, timings: Option<Value>) -> String {
        let mut last =
            body(&self.model, self.chat, json!([choice(self.chat, None, Some("length"))]));
        let mut text = String::new();
        if ask.usage {
            text += &event(&last.to_string());
            last = body(&self.model, self.chat, json!([]));
            last["usage"] = ask.token_counts();
        }
        if let Some(timings) = timings {
            last["timings"] = timings;
        }
        text + &event(&last.to_string()) + &event("[DONE]") + "0\r\n\r\n"
    }
}

/// The answer to a request that asked for no stream.
pub(super) fn whole(ask: &Ask, model: &str, chat: bool, timings: Option<Value>) -> Value {
    let text = " the".repeat(ask.output_tokens as usize);
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
    answer["usage"] = ask.token_counts();
    if let Some(timings) = timings {
        answer["timings"] = timings;
    }
    answer
}

/// The account of a request that arrived, had its turn, and sent its first and its last token at
/// these times.
pub(super) fn timings([arrived, begun, first, last]: [Instant; 4]) -> Value {
    let ms = |span: Duration| span.as_secs_f64() * 1e3;
    let stage = |name: &str, from: Instant, to: Instant| {
        let (start, duration) = (ms(from - arrived), ms(to - from));
        json!({ "name": name, "start_ms": start, "duration_ms": duration, "worker": "null" })
    };
    json!({
        "ttft_ms": ms(first - arrived),
        "stages": [
            stage(stage::PREFILL_QUEUE, arrived, begun),
            stage(stage::PREFILL_COMPUTE, begun, first),
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

/// One event in an HTTP chunk of its own.
fn event(data: &str) -> String {
    let text = format!("data: {data}\n\n");
    format!("{:x}\r\n{text}\r\n", text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_counted_and_the_context_kept() {
        let options = NullOptions { context: 20, tokens: 4, ..NullOptions::default() };
        let read = |text: &str| Ask::read(text.as_bytes(), &options);
        let ask = read(r#"{"prompt":[5,6,7],"max_tokens":9,"stream":true,"ignore_eos":true}"#);
        let expected = Ask { prompt_tokens: 3, output_tokens: 9, stream: true, usage: false };
        assert_eq!(ask, Ok(expected));
        let chat = r#"{"messages":[{"role":"user","content":"a b c"},{"content":"d"}],
                       "stream_options":{"include_usage":true}}"#;
        let ask = read(chat).unwrap();
        assert_eq!((ask.prompt_tokens, ask.output_tokens, ask.usage), (4, 4, true));
        let long = read(r#"{"prompt":"a b","max_tokens":19}"#);
        assert_eq!(long, Err("2 + 19 tokens exceed the context of 20".to_owned()));
        for wrong in ["", "{}", r#"{"prompt":5}"#, r#"{"prompt":"a","messages":[]}"#] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
