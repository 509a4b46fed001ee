//! The parameters that both generation endpoints share.

use protocol::job::{LOGIT_BIAS_MAX, SEQUENCE_TOKENS_MAX, STOP_TOKENS_MAX};
use protocol::{Sampling, TokenId};
use serde_json::Value;

use super::ParseContext;
use super::fields::{Fields, integer, wrong};
use crate::error::ApiError;
use crate::text::stop::{MODEL_STOP_TOKENS_MAX, StopRules};

/// Most stop strings.
const STOP_STRINGS_MAX: usize = 4;
/// Longest stop string.
const STOP_STRING_BYTES_MAX: usize = 512;
/// Longest model name, salt or user.
const NAME_BYTES_MAX: usize = 256;

/// The parameters of a generation that do not depend on the endpoint.
#[derive(Clone, Debug)]
pub(crate) struct CommonParams {
    /// Requested model.
    pub(crate) model: Option<String>,
    /// Choices per prompt.
    pub(crate) choices: u32,
    /// Most output tokens; `None` takes the endpoint's default.
    pub(crate) max_tokens: Option<u32>,
    /// Sampling parameters, except the seed.
    pub(crate) sampling: Sampling,
    /// Random when absent.
    pub(crate) seed: Option<u64>,
    pub(crate) stop: StopRules,
    pub(crate) stream: Option<StreamParams>,
    /// Control tokens do not become text.
    pub(crate) skip_special_tokens: bool,
    /// Puts a beginning-of-sequence token before text; `None` takes the endpoint's default.
    pub(crate) add_special_tokens: Option<bool>,
    /// Limits the sharing of stored prefixes to requests with the same salt.
    pub(crate) cache_salt: Option<String>,
}

/// The options of a stream.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StreamParams {
    /// The last chunk carries the usage.
    pub(crate) include_usage: bool,
    /// Every chunk carries the usage so far.
    pub(crate) continuous_usage: bool,
}

impl CommonParams {
    pub(crate) fn take(
        fields: &mut Fields,
        max_tokens_names: &[&str],
        context: ParseContext<'_>,
    ) -> Result<Self, ApiError> {
        let mut max_tokens = None;
        for name in max_tokens_names {
            let given = fields.integer(name, 0..=SEQUENCE_TOKENS_MAX as i64)?;
            max_tokens = max_tokens.or(given.map(|tokens| tokens as u32));
        }
        fields.text("user", NAME_BYTES_MAX)?;
        let params = Self {
            model: fields.text("model", NAME_BYTES_MAX)?,
            choices: fields.integer("n", 1..=i64::from(context.choices_max))?.unwrap_or(1) as u32,
            max_tokens,
            sampling: sampling(fields, context)?,
            seed: seed(fields)?,
            stop: stop_rules(fields, context)?,
            stream: StreamParams::take(fields)?,
            skip_special_tokens: fields.boolean("skip_special_tokens")?.unwrap_or(true),
            add_special_tokens: fields.boolean("add_special_tokens")?,
            cache_salt: fields.text("cache_salt", NAME_BYTES_MAX)?,
        };
        let min_tokens = params.stop.min_tokens;
        if let Some(max_tokens) = params.max_tokens
            && max_tokens < min_tokens
        {
            let message =
                format!("min_tokens is {min_tokens}, expected at most max_tokens {max_tokens}");
            return Err(ApiError::invalid("min_tokens", message));
        }
        Ok(params)
    }
}

/// Takes the sampling parameters; one that the client leaves out is the model's default.
fn sampling(fields: &mut Fields, context: ParseContext<'_>) -> Result<Sampling, ApiError> {
    let default = context.sampling;
    let top_p = positive("top_p", fields.number("top_p", 0.0..=1.0)?)?;
    let top_k = fields.integer("top_k", -1..=i64::from(i32::MAX))?;
    let repetition_penalty = fields.number("repetition_penalty", 0.0..=100.0)?;
    let repetition_penalty = positive("repetition_penalty", repetition_penalty)?;
    Ok(Sampling {
        temperature: fields.number("temperature", 0.0..=2.0)?.unwrap_or(default.temperature),
        top_p: top_p.unwrap_or(default.top_p),
        top_k: top_k.map_or(default.top_k, |top_k| top_k.max(0) as u32),
        min_p: fields.number("min_p", 0.0..=1.0)?.unwrap_or(default.min_p),
        seed: 0,
        presence_penalty: fields.number("presence_penalty", -2.0..=2.0)?.unwrap_or(0.0),
        frequency_penalty: fields.number("frequency_penalty", -2.0..=2.0)?.unwrap_or(0.0),
        repetition_penalty: repetition_penalty.unwrap_or(default.repetition_penalty),
        logit_bias: logit_bias(fields, context)?,
    })
}

fn positive(name: &str, value: Option<f32>) -> Result<Option<f32>, ApiError> {
    match value {
        Some(value) if value <= 0.0 => {
            Err(ApiError::invalid(name, format!("{name} is {value}, expected more than 0")))
        }
        value => Ok(value),
    }
}

/// Takes the seed: any 64-bit integer, signed or not.
fn seed(fields: &mut Fields) -> Result<Option<u64>, ApiError> {
    let Some(value) = fields.take("seed") else { return Ok(None) };
    if let Some(seed) = value.as_u64() {
        return Ok(Some(seed));
    }
    integer("seed", &value, i64::MIN..=i64::MAX).map(|seed| Some(seed as u64))
}

fn logit_bias(
    fields: &mut Fields,
    context: ParseContext<'_>,
) -> Result<Vec<(TokenId, f32)>, ApiError> {
    const NAME: &str = "logit_bias";
    let map = match fields.take(NAME) {
        None => return Ok(Vec::new()),
        Some(Value::Object(map)) => map,
        Some(other) => return Err(wrong(NAME, &other, "an object of token ids and numbers")),
    };
    if map.len() > LOGIT_BIAS_MAX {
        let count = map.len();
        let message = format!("{NAME} has {count} entries, expected at most {LOGIT_BIAS_MAX}");
        return Err(ApiError::invalid(NAME, message));
    }
    map.iter().map(|(key, value)| bias(key, value, context)).collect()
}

fn bias(key: &str, value: &Value, context: ParseContext<'_>) -> Result<(TokenId, f32), ApiError> {
    let vocabulary = context.vocabulary;
    let token =
        key.parse::<TokenId>().ok().filter(|&token| token < vocabulary).ok_or_else(|| {
            let key: String = key.chars().take(32).collect();
            let message =
                format!("logit_bias names token {key:?}, expected an id below {vocabulary}");
            ApiError::invalid("logit_bias", message)
        })?;
    match value.as_f64() {
        Some(bias) if (-100.0..=100.0).contains(&bias) => Ok((token, bias as f32)),
        _ => {
            let wrong = wrong("logit_bias", value, "-100 to 100");
            let message = format!("{} for token {token}", wrong.message);
            Err(ApiError::invalid("logit_bias", message))
        }
    }
}

fn stop_rules(fields: &mut Fields, context: ParseContext<'_>) -> Result<StopRules, ApiError> {
    let min_tokens = fields.integer("min_tokens", 0..=SEQUENCE_TOKENS_MAX as i64)?;
    Ok(StopRules {
        strings: stop_strings(fields)?,
        tokens: stop_tokens(fields, context)?,
        min_tokens: min_tokens.unwrap_or(0) as u32,
        ignore_eos: fields.boolean("ignore_eos")?.unwrap_or(false),
        included: fields.boolean("include_stop_str_in_output")?.unwrap_or(false),
    })
}

fn stop_strings(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    const NAME: &str = "stop";
    let values = match fields.take(NAME) {
        None => return Ok(Vec::new()),
        Some(Value::Array(values)) => values,
        Some(value @ Value::String(_)) => vec![value],
        Some(other) => return Err(wrong(NAME, &other, "a string or an array of strings")),
    };
    if values.len() > STOP_STRINGS_MAX {
        let count = values.len();
        let message = format!("{NAME} has {count} strings, expected at most {STOP_STRINGS_MAX}");
        return Err(ApiError::invalid(NAME, message));
    }
    let text = |value| match value {
        Value::String(text) if (1..=STOP_STRING_BYTES_MAX).contains(&text.len()) => Ok(text),
        Value::String(text) => {
            let bytes = text.len();
            let expected = format!("expected 1 to {STOP_STRING_BYTES_MAX}");
            Err(ApiError::invalid(
                NAME,
                format!("{NAME} has a string of {bytes} bytes, {expected}"),
            ))
        }
        other => Err(wrong(NAME, &other, "a string or an array of strings")),
    };
    values.into_iter().map(text).collect()
}

fn stop_tokens(fields: &mut Fields, context: ParseContext<'_>) -> Result<Vec<TokenId>, ApiError> {
    const NAME: &str = "stop_token_ids";
    const MAX: usize = STOP_TOKENS_MAX - MODEL_STOP_TOKENS_MAX;
    let values = match fields.take(NAME) {
        None => return Ok(Vec::new()),
        Some(Value::Array(values)) => values,
        Some(other) => return Err(wrong(NAME, &other, "an array of token ids")),
    };
    if values.len() > MAX {
        let count = values.len();
        return Err(ApiError::invalid(
            NAME,
            format!("{NAME} has {count} ids, expected at most {MAX}"),
        ));
    }
    let last = i64::from(context.vocabulary) - 1;
    values.iter().map(|value| Ok(integer(NAME, value, 0..=last)? as TokenId)).collect()
}

impl StreamParams {
    fn take(fields: &mut Fields) -> Result<Option<Self>, ApiError> {
        let stream = fields.boolean("stream")?.unwrap_or(false);
        let Some(mut options) = fields.nested("stream_options")? else {
            return Ok(stream.then(Self::default));
        };
        if !stream {
            let message = "stream_options is only allowed when stream is true";
            return Err(ApiError::invalid("stream_options", message));
        }
        Ok(Some(Self {
            include_usage: options.boolean("include_usage")?.unwrap_or(false),
            continuous_usage: options.boolean("continuous_usage_stats")?.unwrap_or(false),
        }))
    }
}
