//! Choices of `/v1/completions`, whole and in chunks.

use serde_json::{Value, json};

use super::reply::{Reply, stop_reason};
use super::{logprobs, sse::text_json};
use crate::api::choices::Finished;
use crate::text::assembler::{Ended, Score};

/// One whole choice.
pub(super) fn choice(reply: &Reply, choice: Finished) -> Value {
    json!({
        "index": choice.index,
        "text": choice.text,
        "logprobs": logprobs(reply, &choice.scores),
        "finish_reason": choice.ended.reason,
        "stop_reason": stop_reason(Some(&choice.ended)),
    })
}

/// A chunk with text.
pub(super) fn text_chunk(
    out: &mut String,
    reply: &Reply,
    index: u32,
    text: &str,
    scores: &[Score],
) {
    head(out, index, text);
    *out += &logprobs(reply, scores).to_string();
    *out += r#","finish_reason":null}"#;
}

/// The last chunk of a choice: empty, with the reason.
pub(super) fn end_chunk(out: &mut String, index: u32, ended: &Ended) {
    head(out, index, "");
    *out += r#"null,"finish_reason":""#;
    *out += ended.reason;
    *out += r#"","stop_reason":"#;
    *out += &stop_reason(Some(ended)).to_string();
    out.push('}');
}

fn head(out: &mut String, index: u32, text: &str) {
    *out += r#"{"index":"#;
    *out += &index.to_string();
    *out += r#","text":"#;
    *out += &text_json(text);
    *out += r#","logprobs":"#;
}

fn logprobs(reply: &Reply, scores: &[Score]) -> Value {
    match reply.logprobs {
        true => logprobs::completion(reply.vocabulary.as_ref(), scores),
        false => Value::Null,
    }
}
