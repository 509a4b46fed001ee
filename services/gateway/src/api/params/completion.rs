//! `POST /v1/completions`.

use protocol::TokenId;
use protocol::job::{SEQUENCE_TOKENS_MAX, TOP_LOGPROBS_MAX};
use serde_json::Value;

use super::common::CommonParams;
use super::fields::{Fields, integer, wrong};
use super::{ParseContext, ignore, unsupported};
use crate::error::ApiError;
use crate::text::model::Prompt;

/// The parameters of a completion.
#[derive(Clone, Debug)]
pub(crate) struct CompletionRequest {
    pub(crate) common: CommonParams,
    pub(crate) prompts: Vec<Prompt>,
    /// The prompt is part of the output.
    pub(crate) echo: bool,
    /// Alternatives to report with each token; `None` reports no log-probabilities.
    pub(crate) logprobs: Option<u8>,
}

impl CompletionRequest {
    /// Most output tokens unless the client says.
    pub(crate) const DEFAULT_MAX_TOKENS: u32 = 16;

    pub(crate) fn parse(body: &[u8], context: ParseContext<'_>) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(body)?;
        unsupported::refuse(&mut fields)?;
        let common = CommonParams::take(&mut fields, &["max_tokens"], context)?;
        let echo = fields.boolean("echo")?.unwrap_or(false);
        if common.max_tokens == Some(0) && !echo {
            let message = "max_tokens is 0, expected at least 1 unless echo is true";
            return Err(ApiError::invalid("max_tokens", message));
        }
        best_of(&mut fields, common.choices)?;
        let top = fields.integer("logprobs", 0..=i64::from(TOP_LOGPROBS_MAX))?;
        let prompts = prompts(&mut fields, context)?;
        if prompts.len() as u32 * common.choices > context.choices_max {
            let (count, n, max) = (prompts.len(), common.choices, context.choices_max);
            let message = format!("{count} prompts with n {n}, expected at most {max} choices");
            return Err(ApiError::invalid("n", message));
        }
        ignore(&fields);
        Ok(Self { common, prompts, echo, logprobs: top.map(|top| top as u8) })
    }
}

fn best_of(fields: &mut Fields, choices: u32) -> Result<(), ApiError> {
    match fields.integer("best_of", 1..=i64::from(u32::MAX))? {
        Some(best_of) if best_of > i64::from(choices) => {
            let message = format!("best_of is {best_of}, more than n {choices} is not supported");
            Err(ApiError::invalid("best_of", message))
        }
        Some(best_of) if best_of < i64::from(choices) => {
            let message = format!("best_of is {best_of}, expected at least n {choices}");
            Err(ApiError::invalid("best_of", message))
        }
        _ => Ok(()),
    }
}

fn prompts(fields: &mut Fields, context: ParseContext<'_>) -> Result<Vec<Prompt>, ApiError> {
    const NAME: &str = "prompt";
    const EXPECTED: &str = "a string, an array of strings, or token ids";
    let values = match fields.take(NAME) {
        None => return Err(ApiError::invalid(NAME, "prompt is missing")),
        Some(Value::String(text)) => return Ok(vec![Prompt::Text(text)]),
        Some(Value::Array(values)) => values,
        Some(other) => return Err(wrong(NAME, &other, EXPECTED)),
    };
    if values.iter().any(Value::is_number) {
        return Ok(vec![tokens(values, context)?]);
    }
    let prompts_max = context.choices_max as usize;
    if !(1..=prompts_max).contains(&values.len()) {
        let count = values.len();
        let message = format!("prompt has {count} entries, expected 1 to {prompts_max}");
        return Err(ApiError::invalid(NAME, message));
    }
    let prompts = values.into_iter().map(|value| match value {
        Value::String(text) => Ok(Prompt::Text(text)),
        Value::Array(values) => tokens(values, context),
        other => Err(wrong(NAME, &other, EXPECTED)),
    });
    prompts.collect()
}

fn tokens(values: Vec<Value>, context: ParseContext<'_>) -> Result<Prompt, ApiError> {
    if values.len() > SEQUENCE_TOKENS_MAX {
        let count = values.len();
        let message = format!("prompt has {count} tokens, expected at most {SEQUENCE_TOKENS_MAX}");
        return Err(ApiError::invalid("prompt", message));
    }
    let last = i64::from(context.vocabulary) - 1;
    let tokens: Result<Vec<TokenId>, ApiError> = values
        .iter()
        .map(|value| integer("prompt", value, 0..=last).map(|token| token as TokenId))
        .collect();
    Ok(Prompt::Tokens(tokens?))
}
