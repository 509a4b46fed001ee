//! Log-probabilities in the shapes of the two endpoints.

use std::fmt::Write as _;

use protocol::{TokenId, TokenLogprob};
use serde_json::{Map, Value, json};

use crate::text::assembler::TokenScore;
use crate::text::vocabulary::Vocabulary;

/// Lowest log-probability in a response: JSON has no infinity, and clients know this number from
/// other servers.
const LOGPROB_MIN: f32 = -9999.0;

/// Returns `choices[].logprobs` of a chat.
pub(super) fn chat(vocabulary: &dyn Vocabulary, scores: &[TokenScore]) -> Value {
    let entry = |token: TokenId, logprob: f32| {
        let bytes = vocabulary.token_bytes(token);
        let mut entry = Map::new();
        entry.insert("token".to_owned(), spelled(&bytes, "").into());
        entry.insert("logprob".to_owned(), number(logprob));
        entry.insert("bytes".to_owned(), bytes.into());
        entry
    };
    let content = scores.iter().filter_map(|score| {
        let logprob = score.logprob.as_ref()?;
        let mut content = entry(score.token, logprob.logprob);
        let top: Vec<Value> =
            logprob.top.iter().map(|&(token, logprob)| entry(token, logprob).into()).collect();
        content.insert("top_logprobs".to_owned(), top.into());
        Some(Value::Object(content))
    });
    json!({ "content": content.collect::<Vec<Value>>(), "refusal": null })
}

/// Returns `choices[].logprobs` of a completion.
pub(super) fn completion(vocabulary: &dyn Vocabulary, scores: &[TokenScore]) -> Value {
    let name = |token: TokenId| spelled(&vocabulary.token_bytes(token), "bytes:");
    let logprobs = scores.iter().map(|score| match &score.logprob {
        None => Value::Null,
        Some(logprob) => number(logprob.logprob),
    });
    let top_logprobs = scores.iter().map(|score| match &score.logprob {
        None => Value::Null,
        Some(logprob) => top_map(score.token, logprob, name).into(),
    });
    json!({
        "tokens": scores.iter().map(|score| name(score.token)).collect::<Vec<String>>(),
        "token_logprobs": logprobs.collect::<Vec<Value>>(),
        "top_logprobs": top_logprobs.collect::<Vec<Value>>(),
        "text_offset": scores.iter().map(|score| score.offset).collect::<Vec<usize>>(),
    })
}

/// Returns the most likely tokens, and the chosen one whatever its rank.
fn top_map(
    chosen: TokenId,
    logprob: &TokenLogprob,
    name: impl Fn(TokenId) -> String,
) -> Map<String, Value> {
    let mut map = Map::new();
    for &(token, logprob) in &logprob.top {
        // Two tokens may read alike; the more likely one comes first and stays.
        map.entry(name(token)).or_insert_with(|| number(logprob));
    }
    map.entry(name(chosen)).or_insert_with(|| number(logprob.logprob));
    map
}

/// Returns a token as text; one that is not whole characters as escaped bytes after `prefix`.
fn spelled(bytes: &[u8], prefix: &str) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().fold(prefix.to_owned(), |mut text, byte| {
            let _ = write!(text, "\\x{byte:02x}");
            text
        }),
    }
}

fn number(logprob: f32) -> Value {
    // The shortest decimal that reads back as the same f32, not that of its f64 image.
    let logprob = if logprob.is_finite() { logprob.max(LOGPROB_MIN) } else { LOGPROB_MIN };
    logprob.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}
