//! `POST /v1/chat/completions`.

use protocol::job::TOP_LOGPROBS_MAX;
use serde_json::{Map, Value};

use super::common::CommonParams;
use super::fields::{Fields, wrong};
use super::messages::messages;
use super::{ParseContext, ignore, unsupported};
use crate::error::ApiError;
use crate::text::template::Conversation;

/// Most entries of `chat_template_kwargs`.
const TEMPLATE_KWARGS_MAX: usize = 16;
/// Longest JSON of `chat_template_kwargs`, in bytes.
const TEMPLATE_KWARGS_BYTES_MAX: usize = 4096;

/// The parameters of a chat.
#[derive(Clone, Debug)]
pub(crate) struct ChatRequest {
    pub(crate) common: CommonParams,
    pub(crate) conversation: Conversation,
    /// Alternatives to report with each token; `None` reports no log-probabilities.
    pub(crate) top_logprobs: Option<u8>,
}

impl ChatRequest {
    pub(crate) fn parse(body: &[u8], context: ParseContext<'_>) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(body)?;
        unsupported::refuse(&mut fields)?;
        let names = ["max_completion_tokens", "max_tokens"];
        let common = CommonParams::take(&mut fields, &names, context)?;
        if common.max_tokens == Some(0) {
            let message = "max_tokens is 0, expected at least 1";
            return Err(ApiError::invalid("max_tokens", message));
        }
        let request = Self {
            common,
            conversation: Conversation {
                messages: messages(&mut fields)?,
                add_generation_prompt: fields.boolean("add_generation_prompt")?.unwrap_or(true),
                template_kwargs: template_kwargs(&mut fields)?,
            },
            top_logprobs: top_logprobs(&mut fields)?,
        };
        ignore(&fields);
        Ok(request)
    }
}

fn template_kwargs(fields: &mut Fields) -> Result<Map<String, Value>, ApiError> {
    const NAME: &str = "chat_template_kwargs";
    let map = match fields.take(NAME) {
        None => return Ok(Map::new()),
        Some(Value::Object(map)) => map,
        Some(other) => return Err(wrong(NAME, &other, "an object")),
    };
    let bytes = serde_json::to_string(&map).map_or(usize::MAX, |text| text.len());
    if map.len() > TEMPLATE_KWARGS_MAX || bytes > TEMPLATE_KWARGS_BYTES_MAX {
        let message = format!(
            "{NAME} has {} entries in {bytes} bytes, expected at most {TEMPLATE_KWARGS_MAX} in \
             {TEMPLATE_KWARGS_BYTES_MAX}",
            map.len(),
        );
        return Err(ApiError::invalid(NAME, message));
    }
    Ok(map)
}

fn top_logprobs(fields: &mut Fields) -> Result<Option<u8>, ApiError> {
    let wanted = fields.boolean("logprobs")?.unwrap_or(false);
    let top = fields.integer("top_logprobs", 0..=i64::from(TOP_LOGPROBS_MAX))?;
    match (wanted, top) {
        (true, top) => Ok(Some(top.unwrap_or(0) as u8)),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => {
            let message = "top_logprobs is only allowed when logprobs is true";
            Err(ApiError::invalid("top_logprobs", message))
        }
    }
}
