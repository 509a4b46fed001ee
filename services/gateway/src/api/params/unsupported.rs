//! Fields that other servers support and this one does not. They are refused by name, unless their
//! value asks for nothing.

use serde_json::Value;

use super::fields::Fields;
use crate::error::ApiError;

/// The values of an unsupported field that ask for nothing.
enum Harmless {
    Never,
    Empty,
    False,
    OneOf(&'static [&'static str]),
    TextType,
    TextOnly,
}

const UNSUPPORTED: &[(&str, Harmless)] = &[
    ("tools", Harmless::Empty),
    ("tool_choice", Harmless::OneOf(&["none"])),
    ("functions", Harmless::Empty),
    ("function_call", Harmless::OneOf(&["none"])),
    ("response_format", Harmless::TextType),
    ("modalities", Harmless::TextOnly),
    ("audio", Harmless::Never),
    ("prediction", Harmless::Never),
    ("web_search_options", Harmless::Never),
    ("suffix", Harmless::Empty),
    ("prompt_logprobs", Harmless::Never),
    ("prompt_embeds", Harmless::Empty),
    ("use_beam_search", Harmless::False),
    ("continue_final_message", Harmless::False),
    ("chat_template", Harmless::Never),
    ("documents", Harmless::Empty),
    ("guided_json", Harmless::Never),
    ("guided_regex", Harmless::Never),
    ("guided_choice", Harmless::Never),
    ("guided_grammar", Harmless::Never),
    ("structured_outputs", Harmless::Never),
    ("grammar", Harmless::Empty),
    ("json_schema", Harmless::Never),
    ("allowed_token_ids", Harmless::Empty),
    ("bad_words", Harmless::Empty),
    ("truncate_prompt_tokens", Harmless::Never),
    ("return_token_ids", Harmless::False),
    ("return_tokens_as_token_ids", Harmless::False),
    ("logits_processors", Harmless::Empty),
];

impl Harmless {
    fn allows(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Empty, Value::Array(values)) => values.is_empty(),
            (Self::Empty, Value::Object(map)) => map.is_empty(),
            (Self::Empty, Value::String(text)) => text.is_empty(),
            (Self::False, Value::Bool(value)) => !value,
            (Self::OneOf(allowed), Value::String(text)) => allowed.contains(&text.as_str()),
            (Self::TextType, Value::Object(map)) => {
                map.get("type").is_some_and(|kind| kind == "text")
            }
            (Self::TextOnly, Value::Array(values)) => values.iter().all(|value| value == "text"),
            _ => false,
        }
    }
}

/// Refuses the first unsupported field that would change the output, and takes the others.
pub(crate) fn refuse(fields: &mut Fields) -> Result<(), ApiError> {
    for (name, harmless) in UNSUPPORTED {
        if let Some(value) = fields.take(name)
            && !harmless.allows(&value)
        {
            return Err(unsupported(name));
        }
    }
    Ok(())
}

/// Returns 400 for a field that is not supported.
pub(crate) fn unsupported(name: &str) -> ApiError {
    ApiError::invalid(name, format!("{name} is not supported by this server"))
}
