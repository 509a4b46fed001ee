//! The reply of one streamed completion: token times, usage, finish reason.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Visitor};

use crate::send::sse::Event;
use crate::send::stages::Timings;
use crate::send::stamps::TokenTimes;

/// Token counts from the last chunk of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Prompt tokens, including those of the template.
    pub prompt_tokens: u64,
    /// Generated tokens.
    pub completion_tokens: u64,
    /// Prompt tokens whose KV came from a cache; `None` if the server does not report them.
    pub cached_tokens: Option<u64>,
}

/// Events that are not a complete reply.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the message of a variant names its fields")]
pub enum ReplyError {
    /// The server reported an error in the stream.
    #[error("{0}")]
    Server(String),
    /// An event is not a chunk of a completion.
    #[error("not a completion chunk: {0}")]
    Malformed(String),
    /// The stream ended before `[DONE]`.
    #[error("the stream ended before [DONE], after {tokens} token chunks")]
    Truncated { tokens: usize },
}

/// Content of one stream so far.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// Times at which chunks with text arrived.
    pub tokens: TokenTimes,
    /// Time at which the first chunk with a choice arrived, with or without text.
    pub first_choice_ns: Option<i64>,
    /// Time at which the last chunk with a choice arrived.
    pub last_choice_ns: Option<i64>,
    /// Usage, once it arrived.
    pub usage: Option<Usage>,
    /// Finish reason, once it arrived.
    pub finish_reason: Option<FinishReason>,
    /// Stage times, if the server reported them.
    pub timings: Option<Timings>,
    /// True once `[DONE]` arrived.
    pub done: bool,
}

/// Finish reason of a choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The requested number of tokens.
    Length,
    /// A stop string or the end-of-sequence token.
    Stop,
    /// Any other reason of the server.
    Other(Box<str>),
}

impl FinishReason {
    /// Returns the word of the API.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Length => "length",
            Self::Stop => "stop",
            Self::Other(word) => word,
        }
    }
}

impl From<&str> for FinishReason {
    fn from(word: &str) -> Self {
        match word {
            "length" => Self::Length,
            "stop" => Self::Stop,
            other => Self::Other(shorten(other).into()),
        }
    }
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    choices: Vec<Choice<'a>>,
    usage: Option<UsageField>,
    error: Option<serde_json::Value>,
    /// Any value, because other servers use this name for other things.
    timings: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(default)]
    text: HasText,
    delta: Option<Delta>,
    #[serde(borrow)]
    finish_reason: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Delta {
    #[serde(default)]
    content: HasText,
    #[serde(default)]
    reasoning_content: HasText,
}

/// True if there is text. The text itself is not stored.
#[derive(Clone, Copy, Default)]
struct HasText(bool);

impl<'de> Deserialize<'de> for HasText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = HasText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or null")
            }

            fn visit_str<E>(self, text: &str) -> Result<HasText, E> {
                Ok(HasText(!text.is_empty()))
            }

            fn visit_unit<E>(self) -> Result<HasText, E> {
                Ok(HasText(false))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

#[derive(Deserialize)]
struct UsageField {
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
    prompt_tokens_details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    cached_tokens: Option<u64>,
}

impl Choice<'_> {
    fn has_text(&self) -> bool {
        self.text.0 || self.delta.as_ref().is_some_and(|d| d.content.0 || d.reasoning_content.0)
    }

    /// Returns whether this is the chat chunk that only opens the reply, without a token.
    fn opens_only(&self) -> bool {
        self.delta.is_some() && !self.has_text() && self.finish_reason.is_none()
    }
}

impl Reply {
    /// Adds an event that arrived at `now_ns`.
    pub fn accept(&mut self, event: Event<'_>, now_ns: i64) -> Result<(), ReplyError> {
        if self.done {
            return Ok(());
        }
        if event.data.trim() == "[DONE]" {
            self.done = true;
            return Ok(());
        }
        let chunk: Chunk<'_> = serde_json::from_str(event.data)
            .map_err(|e| ReplyError::Malformed(format!("{e} in {:?}", shorten(event.data))))?;
        if let Some(error) = &chunk.error {
            return Err(ReplyError::Server(error_message(error)));
        }
        if event.name == "error" {
            return Err(ReplyError::Server(shorten(event.data)));
        }
        if chunk.choices.is_empty() && chunk.usage.is_none() {
            return Err(ReplyError::Malformed(shorten(event.data)));
        }
        for choice in chunk.choices.into_iter().filter(|choice| !choice.opens_only()) {
            self.first_choice_ns.get_or_insert(now_ns);
            self.last_choice_ns = Some(now_ns);
            if choice.has_text() {
                self.tokens.push(now_ns);
            }
            if let Some(word) = choice.finish_reason.as_deref() {
                self.finish_reason = Some(word.into());
            }
        }
        // Stages split the time to the first token, so without one there are none.
        if let Some(timings) = chunk.timings.filter(|timings| {
            timings.get("stages").is_some()
                && !timings.get("ttft_ms").is_some_and(serde_json::Value::is_null)
        }) {
            self.timings = Some(read_timings(timings)?);
        }
        if let Some(usage) = chunk.usage {
            self.usage = Some(Usage {
                prompt_tokens: usage.prompt_tokens,
                completion_tokens: usage.completion_tokens,
                cached_tokens: usage.prompt_tokens_details.and_then(|d| d.cached_tokens),
            });
        }
        Ok(())
    }

    /// Checks that the stream, which has ended, was complete.
    pub fn check_end(&self) -> Result<(), ReplyError> {
        if !self.done {
            return Err(ReplyError::Truncated { tokens: self.tokens.len() });
        }
        if self.finish_reason.is_none() {
            return Err(ReplyError::Malformed("no choice gave a finish_reason".to_owned()));
        }
        Ok(())
    }

    /// Returns the time of the first token or, without any text, of the first choice.
    pub fn first_token_ns(&self) -> Option<i64> {
        self.tokens.first().or(self.first_choice_ns)
    }

    /// Returns the time of the last token or, without any text, of the last choice.
    pub fn last_token_ns(&self) -> Option<i64> {
        self.tokens.last().or(self.last_choice_ns)
    }

    /// Returns the number of output tokens, by the server's count if it reported one.
    pub fn output_tokens(&self) -> u64 {
        self.usage.map_or(self.tokens.len() as u64, |usage| usage.completion_tokens)
    }
}

fn read_timings(value: serde_json::Value) -> Result<Timings, ReplyError> {
    let malformed = |text: String| ReplyError::Malformed(format!("timings: {text}"));
    let timings: Timings = serde_json::from_value(value).map_err(|e| malformed(e.to_string()))?;
    timings.check().map_err(|e| malformed(e.to_string()))?;
    Ok(timings)
}

/// Returns the message of an OpenAI error object, or the whole value.
pub fn error_message(error: &serde_json::Value) -> String {
    let error = error.get("error").unwrap_or(error);
    match error.get("message").and_then(|m| m.as_str()).or(error.as_str()) {
        Some(message) => shorten(message),
        None => shorten(&error.to_string()),
    }
}

/// Returns the first 200 characters.
pub fn shorten(text: &str) -> String {
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(events: &[(&str, i64)]) -> (Reply, Result<(), ReplyError>) {
        let mut reply = Reply::default();
        let result =
            events.iter().try_for_each(|(data, at)| reply.accept(Event { name: "", data }, *at));
        (reply, result)
    }

    #[test]
    fn a_completion() {
        let (reply, result) = read(&[
            (r#"{"choices":[{"index":0,"text":" a","finish_reason":null}],"usage":null}"#, 10),
            (r#"{"choices":[{"index":0,"text":" b","finish_reason":null}]}"#, 30),
            (r#"{"choices":[{"index":0,"text":"","finish_reason":"length"}]}"#, 31),
            (
                r#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7,"prompt_tokens_details":{"cached_tokens":4}}}"#,
                32,
            ),
            ("[DONE]", 33),
            ("junk after the end", 34),
        ]);
        assert_eq!(result, Ok(()));
        assert_eq!(reply.check_end(), Ok(()));
        assert_eq!(reply.tokens.iter().collect::<Vec<_>>(), [10, 30]);
        assert_eq!((reply.first_token_ns(), reply.last_token_ns()), (Some(10), Some(30)));
        let expected = Usage { prompt_tokens: 5, completion_tokens: 2, cached_tokens: Some(4) };
        assert_eq!(reply.usage, Some(expected));
    }

    #[test]
    fn the_opening_chat_chunk_is_no_token() {
        let (reply, result) = read(&[
            (
                r#"{"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#,
                5,
            ),
            (r#"{"choices":[{"delta":{"content":"hi"},"finish_reason":null}]}"#, 9),
            (r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#, 11),
            ("[DONE]", 12),
        ]);
        assert_eq!(result, Ok(()));
        assert_eq!(reply.tokens.iter().collect::<Vec<_>>(), [9]);
        assert_eq!(reply.output_tokens(), 1);
    }

    #[test]
    fn a_reply_without_text_still_has_a_first_token() {
        let (reply, _) =
            read(&[(r#"{"choices":[{"text":"","finish_reason":"length"}]}"#, 7), ("[DONE]", 8)]);
        assert_eq!(reply.check_end(), Ok(()));
        assert_eq!(reply.first_token_ns(), Some(7));
    }

    #[test]
    fn the_servers_stages_come_with_the_last_chunk() {
        let chunk = |duration: &str| {
            format!(
                r#"{{"choices":[],"usage":{{"prompt_tokens":1}},"timings":{{"ttft_ms":2.5,"stages":[{{"name":"route","start_ms":0.0,"duration_ms":{duration}}}]}}}}"#
            )
        };
        let (reply, result) = read(&[(&chunk("2.5"), 1)]);
        assert_eq!(result, Ok(()));
        assert_eq!(reply.timings.unwrap().stages[0].name, "route");
        let (other, result) =
            read(&[(r#"{"choices":[],"usage":{"prompt_tokens":1},"timings":{"prompt_n":3}}"#, 1)]);
        assert_eq!((other.timings, result), (None, Ok(())));
        let (silent, result) = read(&[(&chunk("2.5").replace(":2.5,\"st", ":null,\"st"), 1)]);
        assert_eq!((silent.timings, result), (None, Ok(())));
        assert!(matches!(read(&[(&chunk("-1.0"), 1)]).1, Err(ReplyError::Malformed(_))));
        assert!(matches!(read(&[(&chunk("\"soon\""), 1)]).1, Err(ReplyError::Malformed(_))));
    }

    #[test]
    fn each_bad_stream_has_its_error() {
        let (_, result) = read(&[(r#"{"error":{"message":"worker died","type":"x"}}"#, 1)]);
        assert_eq!(result, Err(ReplyError::Server("worker died".to_owned())));
        for junk in ["nonsense", "{}", "[1]", r#"{"choices":[3]}"#, r#"{"choices":[{"text":3}]}"#] {
            assert!(matches!(read(&[(junk, 1)]).1, Err(ReplyError::Malformed(_))), "{junk}");
        }
        let (cut, _) = read(&[(r#"{"choices":[{"text":"a"}]}"#, 1)]);
        assert_eq!(cut.check_end(), Err(ReplyError::Truncated { tokens: 1 }));
        let (unfinished, _) = read(&[(r#"{"choices":[{"text":"a"}]}"#, 1), ("[DONE]", 2)]);
        assert!(matches!(unfinished.check_end(), Err(ReplyError::Malformed(_))));
    }
}
