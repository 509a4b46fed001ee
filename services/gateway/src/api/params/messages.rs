//! The messages of a conversation.

use serde_json::{Map, Value};

use super::fields::{Fields, wrong};
use super::unsupported::unsupported;
use crate::error::ApiError;
use crate::text::template::Message;

/// Most messages of a conversation.
const MESSAGES_MAX: usize = 4096;
/// Longest name of a participant or tool call.
const NAME_BYTES_MAX: usize = 256;

/// Takes `messages`.
pub(crate) fn messages(fields: &mut Fields) -> Result<Vec<Message>, ApiError> {
    const NAME: &str = "messages";
    let values = match fields.take(NAME) {
        None => return Err(ApiError::invalid(NAME, "messages is missing")),
        Some(Value::Array(values)) => values,
        Some(other) => return Err(wrong(NAME, &other, "an array of messages")),
    };
    if !(1..=MESSAGES_MAX).contains(&values.len()) {
        let count = values.len();
        let message = format!("messages has {count} entries, expected 1 to {MESSAGES_MAX}");
        return Err(ApiError::invalid(NAME, message));
    }
    values.into_iter().enumerate().map(|(index, value)| message(index, value)).collect()
}

fn message(index: usize, value: Value) -> Result<Message, ApiError> {
    let at = |field: &str| format!("messages[{index}].{field}");
    let Value::Object(mut map) = value else {
        return Err(wrong(&format!("messages[{index}]"), &value, "an object"));
    };
    map.retain(|_, value| !value.is_null());
    let role = role(&at("role"), map.get("role"))?;
    for name in ["tool_calls", "function_call", "audio"] {
        let value = map.get(name);
        if value.is_some_and(|value| value.as_array().is_none_or(|it| !it.is_empty())) {
            return Err(unsupported(&at(name)));
        }
    }
    let content = match map.remove("content") {
        // An assistant's message that only refused or called a tool has no text.
        None if role == "assistant" => String::new(),
        None => {
            return Err(ApiError::invalid(at("content"), format!("{} is missing", at("content"))));
        }
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => parts_text(&at("content"), parts)?,
        Some(other) => {
            return Err(wrong(&at("content"), &other, "a string or an array of text parts"));
        }
    };
    Ok(Message {
        role,
        content,
        name: short_text(&at("name"), &mut map, "name")?,
        tool_call_id: short_text(&at("tool_call_id"), &mut map, "tool_call_id")?,
    })
}

fn role(at: &str, value: Option<&Value>) -> Result<&'static str, ApiError> {
    match value.and_then(Value::as_str) {
        Some("system" | "developer") => Ok("system"),
        Some("user") => Ok("user"),
        Some("assistant") => Ok("assistant"),
        Some("tool") => Ok("tool"),
        _ => {
            let expected = "\"system\", \"developer\", \"user\", \"assistant\" or \"tool\"";
            Err(wrong(at, value.unwrap_or(&Value::Null), expected))
        }
    }
}

fn parts_text(at: &str, parts: Vec<Value>) -> Result<String, ApiError> {
    let text = |(index, part): (usize, Value)| {
        let at = format!("{at}[{index}]");
        let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
        let key = match kind {
            "text" | "input_text" => "text",
            "refusal" => "refusal",
            _ if part.is_object() => {
                let kind: String = kind.chars().take(32).collect();
                let message =
                    format!("{at} is a part of type {kind:?}, only \"text\" is supported");
                return Err(ApiError::invalid(at, message));
            }
            _ => return Err(wrong(&at, &part, "a text part")),
        };
        match part.get(key) {
            Some(Value::String(text)) => Ok(text.clone()),
            other => {
                let at = format!("{at}.{key}");
                Err(wrong(&at, other.unwrap_or(&Value::Null), "a string"))
            }
        }
    };
    let texts: Result<Vec<String>, ApiError> = parts.into_iter().enumerate().map(text).collect();
    Ok(texts?.join("\n"))
}

fn short_text(
    at: &str,
    map: &mut Map<String, Value>,
    key: &str,
) -> Result<Option<String>, ApiError> {
    match map.remove(key) {
        None => Ok(None),
        Some(Value::String(text)) if text.len() <= NAME_BYTES_MAX => Ok(Some(text)),
        Some(other) => {
            Err(wrong(at, &other, &format!("a string of at most {NAME_BYTES_MAX} bytes")))
        }
    }
}
