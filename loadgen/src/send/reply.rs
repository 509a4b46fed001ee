//! The reply of one streamed completion: token times, usage, finish reason.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};

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
    /// The server gave the answer up.
    #[error(
        "the server ended the answer with finish_reason {reason:?}, after {tokens} token chunks"
    )]
    GivenUp { reason: String, tokens: usize },
    /// The answer has no token.
    #[error("the answer has no token (finish_reason {reason:?})")]
    Empty { reason: String },
}

/// Field of a choice that carries tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenField {
    /// `text` of a completion.
    Text,
    /// `delta.content` of a chat.
    Content,
    /// `delta.reasoning_content`.
    ReasoningContent,
    /// `delta.reasoning`, the newer name of the former.
    Reasoning,
    /// Names and arguments in `delta.tool_calls`, or in the older `delta.function_call`.
    ToolCalls,
    /// `delta.refusal`.
    Refusal,
}

impl TokenField {
    /// All fields.
    pub const ALL: [Self; 6] = [
        Self::Text,
        Self::Content,
        Self::ReasoningContent,
        Self::Reasoning,
        Self::ToolCalls,
        Self::Refusal,
    ];

    /// Returns the name of the field in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Content => "content",
            Self::ReasoningContent => "reasoning_content",
            Self::Reasoning => "reasoning",
            Self::ToolCalls => "tool_calls",
            Self::Refusal => "refusal",
        }
    }
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
    /// Chunks with text by field, in the order of `TokenField::ALL`.
    pub chunks_by_field: [u32; TokenField::ALL.len()],
    /// Chunks without a choice and without usage, which carry nothing.
    pub empty_chunks: u32,
    /// True if `[DONE]` lacked the blank line that ends an event.
    pub unclosed_done: bool,
}

/// Finish reason of a choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The requested number of tokens.
    Length,
    /// A stop string or the end-of-sequence token.
    Stop,
    /// The server gave the answer up: `abort`, `error` and the like.
    GivenUp(Box<str>),
    /// Any other reason of the server.
    Other(Box<str>),
}

impl FinishReason {
    /// Returns the word of the API.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Length => "length",
            Self::Stop => "stop",
            Self::GivenUp(word) | Self::Other(word) => word,
        }
    }
}

impl From<&str> for FinishReason {
    fn from(word: &str) -> Self {
        match word {
            "length" => Self::Length,
            "stop" => Self::Stop,
            "abort" | "aborted" | "cancelled" | "canceled" | "error" | "timeout" => {
                Self::GivenUp(word.into())
            }
            other => Self::Other(shorten(other).into()),
        }
    }
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow)]
    choices: Option<Vec<Choice<'a>>>,
    usage: Option<UsageField>,
    error: Option<serde_json::Value>,
    /// Any value, because other servers use this name for other things.
    timings: Option<serde_json::Value>,
    /// Keys by which a chunk without a choice is known.
    id: Option<IgnoredAny>,
    object: Option<IgnoredAny>,
    model: Option<IgnoredAny>,
    prompt_filter_results: Option<IgnoredAny>,
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
    #[serde(default)]
    reasoning: HasText,
    #[serde(default)]
    refusal: HasText,
    tool_calls: Option<Vec<ToolCall>>,
    function_call: Option<Function>,
}

#[derive(Deserialize)]
struct ToolCall {
    function: Option<Function>,
}

#[derive(Deserialize)]
struct Function {
    #[serde(default)]
    name: HasText,
    #[serde(default)]
    arguments: HasText,
}

impl Function {
    fn has_text(&self) -> bool {
        self.name.0 || self.arguments.0
    }
}

/// True if there is text. The text itself is not stored.
#[derive(Clone, Copy, Default)]
struct HasText(bool);

impl<'de> Deserialize<'de> for HasText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = HasText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a list of parts or null")
            }

            fn visit_str<E>(self, text: &str) -> Result<HasText, E> {
                Ok(HasText(!text.is_empty()))
            }

            fn visit_unit<E>(self) -> Result<HasText, E> {
                Ok(HasText(false))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<HasText, A::Error> {
                let mut any = false;
                while parts.next_element::<IgnoredAny>()?.is_some() {
                    any = true;
                }
                Ok(HasText(any))
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

impl Delta {
    fn calls_a_tool(&self) -> bool {
        let calls = self.tool_calls.iter().flatten().filter_map(|call| call.function.as_ref());
        calls.chain(&self.function_call).any(Function::has_text)
    }
}

impl Choice<'_> {
    /// Returns whether each field has text, in the order of `TokenField::ALL`.
    fn texts(&self) -> [bool; TokenField::ALL.len()] {
        let delta = self.delta.as_ref();
        TokenField::ALL.map(|field| match (field, delta) {
            (TokenField::Text, _) => self.text.0,
            (_, None) => false,
            (TokenField::Content, Some(delta)) => delta.content.0,
            (TokenField::ReasoningContent, Some(delta)) => delta.reasoning_content.0,
            (TokenField::Reasoning, Some(delta)) => delta.reasoning.0,
            (TokenField::ToolCalls, Some(delta)) => delta.calls_a_tool(),
            (TokenField::Refusal, Some(delta)) => delta.refusal.0,
        })
    }
}

impl Chunk<'_> {
    /// Returns whether this is a chunk that servers send without a choice, for example with the
    /// results of a content filter.
    fn is_known_without_choice(&self) -> bool {
        self.choices.is_some()
            || self.id.is_some()
            || self.object.is_some()
            || self.model.is_some()
            || self.prompt_filter_results.is_some()
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
        let has_choice = chunk.choices.as_ref().is_some_and(|choices| !choices.is_empty());
        if !has_choice && chunk.usage.is_none() {
            if !chunk.is_known_without_choice() {
                return Err(ReplyError::Malformed(shorten(event.data)));
            }
            self.empty_chunks += 1;
        }
        for choice in chunk.choices.into_iter().flatten() {
            self.accept_choice(&choice, now_ns);
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

    fn accept_choice(&mut self, choice: &Choice<'_>, now_ns: i64) {
        let texts = choice.texts();
        let has_text = texts.contains(&true);
        if choice.delta.is_some() && !has_text && choice.finish_reason.is_none() {
            // The chunk of a chat that only gives the role, without a token.
            return;
        }
        self.first_choice_ns.get_or_insert(now_ns);
        self.last_choice_ns = Some(now_ns);
        if has_text {
            self.tokens.push(now_ns);
        }
        for (count, has_text) in self.chunks_by_field.iter_mut().zip(texts) {
            *count += u32::from(has_text);
        }
        if let Some(word) = choice.finish_reason.as_deref() {
            self.finish_reason = Some(word.into());
        }
    }

    /// Accepts the incomplete event at the clean end of a body if it is `[DONE]`: some servers
    /// leave out the blank line after it.
    pub fn accept_unfinished(&mut self, data: &str) {
        if !self.done && data.trim() == "[DONE]" {
            self.done = true;
            self.unclosed_done = true;
        }
    }

    /// Checks that the stream, which has ended, was complete, and that it is an answer: neither
    /// given up by the server nor without any token.
    pub fn check_end(&self) -> Result<(), ReplyError> {
        let tokens = self.tokens.len();
        if !self.done {
            return Err(ReplyError::Truncated { tokens });
        }
        match &self.finish_reason {
            None => Err(ReplyError::Malformed("no choice gave a finish_reason".to_owned())),
            Some(FinishReason::GivenUp(word)) => {
                Err(ReplyError::GivenUp { reason: word.as_ref().to_owned(), tokens })
            }
            Some(reason) if tokens == 0 && self.output_tokens() == 0 => {
                Err(ReplyError::Empty { reason: reason.as_str().to_owned() })
            }
            Some(_) => Ok(()),
        }
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
    fn a_token_without_text_is_counted_by_the_server() {
        let last = (r#"{"choices":[{"text":"","finish_reason":"length"}]}"#, 7);
        let usage = (r#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":1}}"#, 8);
        let (reply, _) = read(&[last, usage, ("[DONE]", 9)]);
        assert_eq!(reply.check_end(), Ok(()));
        assert_eq!(reply.first_token_ns(), Some(7));
    }

    #[test]
    fn every_field_of_an_answer_carries_tokens() {
        for (field, delta) in [
            (TokenField::Content, r#"{"content":"a"}"#),
            (TokenField::Content, r#"{"content":[{"type":"text","text":"a"}]}"#),
            (TokenField::ReasoningContent, r#"{"content":null,"reasoning_content":"a"}"#),
            (TokenField::Reasoning, r#"{"content":"","reasoning":"a"}"#),
            (TokenField::Refusal, r#"{"refusal":"I cannot"}"#),
            (
                TokenField::ToolCalls,
                r#"{"tool_calls":[{"index":0,"id":"c","function":{"name":"f","arguments":""}}]}"#,
            ),
            (
                TokenField::ToolCalls,
                r#"{"tool_calls":[{"index":0,"function":{"arguments":"{\"a"}}]}"#,
            ),
            (TokenField::ToolCalls, r#"{"function_call":{"arguments":"1"}}"#),
        ] {
            let opening = r#"{"choices":[{"delta":{"role":"assistant"},"finish_reason":null}]}"#;
            let chunk = format!(r#"{{"choices":[{{"delta":{delta},"finish_reason":null}}]}}"#);
            let (reply, result) = read(&[(opening, 1), (&chunk, 2)]);
            assert_eq!((result, reply.first_token_ns()), (Ok(()), Some(2)), "{delta}");
            let expected = TokenField::ALL.map(|other| u32::from(other == field));
            assert_eq!(reply.chunks_by_field, expected, "{delta}");
        }
    }

    #[test]
    fn chunks_without_a_choice_are_passed_over() {
        for chunk in [
            r#"{"id":"","object":"","created":0,"model":"","choices":[],"prompt_filter_results":[]}"#,
            r#"{"id":"x","choices":null}"#,
            r#"{"object":"chat.completion.chunk"}"#,
        ] {
            let (reply, result) = read(&[(chunk, 1)]);
            assert_eq!((result, reply.empty_chunks, reply.first_choice_ns), (Ok(()), 1, None));
        }
    }

    #[test]
    fn an_answer_that_was_given_up_or_has_no_token_is_a_failure() {
        for word in ["abort", "error", "cancelled", "timeout"] {
            for text in ["", "a"] {
                let last =
                    format!(r#"{{"choices":[{{"text":"{text}","finish_reason":"{word}"}}]}}"#);
                let (reply, _) = read(&[(&last, 1), ("[DONE]", 2)]);
                let expected = ReplyError::GivenUp { reason: word.to_owned(), tokens: text.len() };
                assert_eq!(reply.check_end(), Err(expected));
            }
        }
        for usage in ["null", r#"{"prompt_tokens":5,"completion_tokens":0}"#] {
            let last = format!(
                r#"{{"choices":[{{"delta":{{}},"finish_reason":"stop"}}],"usage":{usage}}}"#
            );
            let (reply, _) = read(&[(&last, 1), ("[DONE]", 2)]);
            assert_eq!(reply.check_end(), Err(ReplyError::Empty { reason: "stop".to_owned() }));
        }
    }

    #[test]
    fn only_done_may_lack_its_blank_line() {
        let last = (r#"{"choices":[{"text":"a","finish_reason":"stop"}]}"#, 1);
        let (mut reply, _) = read(&[last]);
        reply.accept_unfinished(r#"{"choices":[]}"#);
        assert_eq!(reply.check_end(), Err(ReplyError::Truncated { tokens: 1 }));
        reply.accept_unfinished("[DONE]");
        assert_eq!((reply.check_end(), reply.unclosed_done), (Ok(()), true));
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
