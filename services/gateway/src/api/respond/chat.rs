//! Choices of `/v1/chat/completions`, whole and in chunks.

use serde_json::{Value, json};

use super::reply::{Reply, stop_reason};
use super::{logprobs, sse::text_json};
use crate::api::choices::Finished;
use crate::text::assembler::{Ended, Score};

/// One whole choice.
pub(super) fn choice(reply: &Reply, choice: Finished) -> Value {
    let logprobs = match reply.logprobs {
        true => logprobs::chat(reply.vocabulary.as_ref(), &choice.scores),
        false => Value::Null,
    };
    json!({
        "index": choice.index,
        "message": { "role": "assistant", "content": choice.text, "refusal": null },
        "logprobs": logprobs,
        "finish_reason": choice.ended.reason,
        "stop_reason": stop_reason(Some(&choice.ended)),
    })
}

/// The first delta of a choice: who speaks.
pub(super) fn role_chunk(out: &mut String, index: u32) {
    delta(out, index, r#"{"role":"assistant","content":""}"#);
    *out += r#","logprobs":null,"finish_reason":null}"#;
}

/// A delta with text.
pub(super) fn text_chunk(
    out: &mut String,
    reply: &Reply,
    index: u32,
    text: &str,
    scores: &[Score],
) {
    delta(out, index, &format!(r#"{{"content":{}}}"#, text_json(text)));
    *out += r#","logprobs":"#;
    match reply.logprobs {
        true => *out += &logprobs::chat(reply.vocabulary.as_ref(), scores).to_string(),
        false => *out += "null",
    }
    *out += r#","finish_reason":null}"#;
}

/// The last delta of a choice: empty, with the reason.
pub(super) fn end_chunk(out: &mut String, index: u32, ended: &Ended) {
    delta(out, index, "{}");
    *out += r#","logprobs":null,"finish_reason":""#;
    *out += ended.reason;
    *out += r#"","stop_reason":"#;
    *out += &stop_reason(Some(ended)).to_string();
    out.push('}');
}

fn delta(out: &mut String, index: u32, delta: &str) {
    *out += r#"{"index":"#;
    *out += &index.to_string();
    *out += r#","delta":"#;
    *out += delta;
}
