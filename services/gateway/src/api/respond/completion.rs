//! Choices of `/v1/completions`, whole and in chunks.

use serde_json::{Value, json};

use super::head::{ResponseHead, stop_reason};
use super::{logprobs, sse::text_json};
use crate::api::choices::FinishedChoice;
use crate::text::assembler::{ChoiceEnd, TokenScore};

/// Returns one whole choice.
pub(super) fn choice(head: &ResponseHead, choice: FinishedChoice) -> Value {
    json!({
        "index": choice.index,
        "text": choice.text,
        "logprobs": logprobs(head, &choice.scores),
        "finish_reason": choice.ended.reason,
        "stop_reason": stop_reason(&choice.ended),
    })
}

/// Writes a chunk with text.
pub(super) fn text_chunk(
    out: &mut String,
    head: &ResponseHead,
    index: u32,
    text: &str,
    scores: &[TokenScore],
) {
    begin(out, index, text);
    *out += &logprobs(head, scores).to_string();
    *out += r#","finish_reason":null}"#;
}

/// Writes the last chunk of a choice: empty, with the finish reason.
pub(super) fn end_chunk(out: &mut String, index: u32, ended: &ChoiceEnd) {
    begin(out, index, "");
    *out += r#"null,"finish_reason":""#;
    *out += ended.reason;
    *out += r#"","stop_reason":"#;
    *out += &stop_reason(ended).to_string();
    out.push('}');
}

fn begin(out: &mut String, index: u32, text: &str) {
    *out += r#"{"index":"#;
    *out += &index.to_string();
    *out += r#","text":"#;
    *out += &text_json(text);
    *out += r#","logprobs":"#;
}

fn logprobs(head: &ResponseHead, scores: &[TokenScore]) -> Value {
    if head.logprobs { logprobs::completion(head.vocabulary.as_ref(), scores) } else { Value::Null }
}
