//! Choices of `/v1/chat/completions`, whole and in chunks.

use serde_json::{Value, json};

use super::head::{ResponseHead, stop_reason};
use super::{logprobs, sse::text_json};
use crate::api::choices::FinishedChoice;
use crate::text::assembler::{ChoiceEnd, TokenScore};

/// Returns one whole choice.
pub(super) fn choice(head: &ResponseHead, choice: FinishedChoice) -> Value {
    let logprobs = if head.logprobs {
        logprobs::chat(head.vocabulary.as_ref(), &choice.scores)
    } else {
        Value::Null
    };
    json!({
        "index": choice.index,
        "message": { "role": "assistant", "content": choice.text, "refusal": null },
        "logprobs": logprobs,
        "finish_reason": choice.ended.reason,
        "stop_reason": stop_reason(&choice.ended),
    })
}

/// Writes the first delta of a choice: its role.
pub(super) fn role_chunk(out: &mut String, index: u32) {
    delta(out, index, r#"{"role":"assistant","content":""}"#);
    *out += r#","logprobs":null,"finish_reason":null}"#;
}

/// Writes a delta with text.
pub(super) fn text_chunk(
    out: &mut String,
    head: &ResponseHead,
    index: u32,
    text: &str,
    scores: &[TokenScore],
) {
    delta(out, index, &format!(r#"{{"content":{}}}"#, text_json(text)));
    *out += r#","logprobs":"#;
    if head.logprobs {
        *out += &logprobs::chat(head.vocabulary.as_ref(), scores).to_string();
    } else {
        *out += "null";
    }
    *out += r#","finish_reason":null}"#;
}

/// Writes the last delta of a choice: empty, with the finish reason.
pub(super) fn end_chunk(out: &mut String, index: u32, ended: &ChoiceEnd) {
    delta(out, index, "{}");
    *out += r#","logprobs":null,"finish_reason":""#;
    *out += ended.reason;
    *out += r#"","stop_reason":"#;
    *out += &stop_reason(ended).to_string();
    out.push('}');
}

fn delta(out: &mut String, index: u32, delta: &str) {
    *out += r#"{"index":"#;
    *out += &index.to_string();
    *out += r#","delta":"#;
    *out += delta;
}
