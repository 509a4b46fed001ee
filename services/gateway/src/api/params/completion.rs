//! `POST /v1/completions`.

use protocol::TokenId;
use protocol::job::{SEQUENCE_TOKENS_MAX, TOP_LOGPROBS_MAX};
use serde_json::Value;

use super::common::GenerationParams;
use super::fields::{Fields, integer, wrong};
use super::{Bounds, ignore, unsupported};
use crate::error::ApiError;
use crate::text::model::Prompt;

/// Output tokens when the client does not say.
const MAX_TOKENS_DEFAULT: u32 = 16;

/// Prompts to be continued.
#[derive(Clone, Debug)]
pub(crate) struct CompletionRequest {
    pub(crate) generation: GenerationParams,
    pub(crate) prompts: Vec<Prompt>,
    /// The prompt is part of the answer.
    pub(crate) echo: bool,
    /// Alternatives to report with each token; `None` reports no log-probabilities.
    pub(crate) logprobs: Option<u8>,
}

impl CompletionRequest {
    /// Output tokens when the client does not say.
    pub(crate) const MAX_TOKENS_DEFAULT: u32 = MAX_TOKENS_DEFAULT;

    pub(crate) fn parse(body: &[u8], bounds: Bounds) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(body)?;
        unsupported::refuse(&mut fields)?;
        let generation = GenerationParams::take(&mut fields, &["max_tokens"], bounds)?;
        let echo = fields.boolean("echo")?.unwrap_or(false);
        if generation.max_tokens == Some(0) && !echo {
            let message = "max_tokens is 0, expected at least 1 unless echo is true";
            return Err(ApiError::invalid("max_tokens", message));
        }
        best_of(&mut fields, generation.choices)?;
        let top = fields.integer("logprobs", 0..=i64::from(TOP_LOGPROBS_MAX))?;
        let prompts = prompts(&mut fields, bounds)?;
        if bounds.choices_max < prompts.len() as u32 * generation.choices {
            let (count, n, max) = (prompts.len(), generation.choices, bounds.choices_max);
            let message = format!("{count} prompts with n {n}, expected at most {max} choices");
            return Err(ApiError::invalid("n", message));
        }
        ignore(&fields);
        Ok(Self { generation, prompts, echo, logprobs: top.map(|top| top as u8) })
    }
}

fn best_of(fields: &mut Fields, choices: u32) -> Result<(), ApiError> {
    match fields.integer("best_of", 1..=i64::from(u32::MAX))? {
        Some(best_of) if i64::from(choices) < best_of => {
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

fn prompts(fields: &mut Fields, bounds: Bounds) -> Result<Vec<Prompt>, ApiError> {
    const NAME: &str = "prompt";
    const EXPECTED: &str = "a string, an array of strings, or token ids";
    let values = match fields.take(NAME) {
        None => return Err(ApiError::invalid(NAME, "prompt is missing")),
        Some(Value::String(text)) => return Ok(vec![Prompt::Text(text)]),
        Some(Value::Array(values)) => values,
        Some(other) => return Err(wrong(NAME, &other, EXPECTED)),
    };
    if values.iter().any(Value::is_number) {
        return Ok(vec![tokens(values, bounds)?]);
    }
    let prompts_max = bounds.choices_max as usize;
    if !(1..=prompts_max).contains(&values.len()) {
        let count = values.len();
        let message = format!("prompt has {count} entries, expected 1 to {prompts_max}");
        return Err(ApiError::invalid(NAME, message));
    }
    let prompt = |value| match value {
        Value::String(text) => Ok(Prompt::Text(text)),
        Value::Array(values) => tokens(values, bounds),
        other => Err(wrong(NAME, &other, EXPECTED)),
    };
    values.into_iter().map(prompt).collect()
}

fn tokens(values: Vec<Value>, bounds: Bounds) -> Result<Prompt, ApiError> {
    if SEQUENCE_TOKENS_MAX < values.len() {
        let count = values.len();
        let message = format!("prompt has {count} tokens, expected at most {SEQUENCE_TOKENS_MAX}");
        return Err(ApiError::invalid("prompt", message));
    }
    let last = i64::from(bounds.vocabulary) - 1;
    let tokens: Result<Vec<TokenId>, ApiError> = values
        .iter()
        .map(|value| integer("prompt", value, 0..=last).map(|token| token as TokenId))
        .collect();
    Ok(Prompt::Tokens(tokens?))
}
