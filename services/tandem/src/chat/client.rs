//! A small client of the chat endpoint: one streamed answer at a time.

use std::time::Duration;

use anyhow::{Context as _, bail};
use eventsource_stream::Eventsource as _;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};

use crate::http;

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Longest silence of the server; it also bounds the wait for the first token.
const SILENCE_LIMIT: Duration = Duration::from_secs(180);
/// Longest error body that is read.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// A part of an answer, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// Text to show.
    Text(String),
    /// The finish reason: `stop`, `length` …
    Finished(String),
    /// The token counts.
    Usage {
        /// Of the conversation so far.
        prompt_tokens: u64,
        /// Those of the prompt that were found computed.
        cached_tokens: u64,
        /// Of the answer.
        completion_tokens: u64,
    },
}

/// The parameters by which tokens are drawn.
#[derive(Debug, Clone, PartialEq, clap::Args)]
pub(super) struct Sampling {
    /// Randomness of an answer; 0 takes the likeliest token each time
    #[arg(long, value_name = "T", default_value_t = 0.2)]
    temperature: f64,
    /// Share of probability that tokens are drawn from
    #[arg(long, value_name = "P", default_value_t = 0.9)]
    top_p: f64,
    /// Most tokens of one answer
    #[arg(long, value_name = "N", default_value_t = 512)]
    max_tokens: u32,
}

/// One server and its model.
#[derive(Debug, Clone)]
pub(super) struct ChatClient {
    http: reqwest::Client,
    base: String,
    model: String,
}

impl ChatClient {
    /// Finds out which model `base` serves.
    pub(super) async fn connect(base: &str) -> anyhow::Result<Self> {
        let http = http::client_for(base)
            .connect_timeout(CONNECT_LIMIT)
            .read_timeout(SILENCE_LIMIT)
            .build()
            .context("prepare the HTTP client")?;
        let url = format!("{base}/v1/models");
        let response = http.get(&url).send().await.with_context(|| {
            format!(
                "no server answers at {base}; start one with `tandem up`, or name it with --url"
            )
        })?;
        let models: Value = refuse(response).await?.json().await.context("read the model list")?;
        let Some(model) = models["data"][0]["id"].as_str() else {
            bail!("{url} lists no model yet; it may still be loading");
        };
        Ok(Self { http, model: model.to_owned(), base: base.to_owned() })
    }

    /// The model's name.
    pub(super) fn model(&self) -> &str {
        &self.model
    }

    /// Requests the next message of the conversation.
    pub(super) async fn answer(
        &self,
        messages: &[Value],
        sampling: &Sampling,
    ) -> anyhow::Result<BoxStream<'static, anyhow::Result<Piece>>> {
        let body = json!({
            "model": self.model,
            "messages": messages,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "stream": true,
            "stream_options": { "include_usage": true },
        });
        let url = format!("{}/v1/chat/completions", self.base);
        let request = self.http.post(&url).json(&body).send();
        let response = refuse(request.await.with_context(|| format!("ask {url}"))?).await?;
        let pieces = response
            .bytes_stream()
            .eventsource()
            .map_err(|error| anyhow::anyhow!("the stream broke: {error}"))
            .map(|event| event.and_then(|event| pieces_of(&event.data)))
            .flat_map(|pieces| {
                futures::stream::iter(match pieces {
                    Ok(pieces) => pieces.into_iter().map(Ok).collect(),
                    Err(error) => vec![Err(error)],
                })
            });
        Ok(pieces.boxed())
    }
}

/// Turns an error status into the message that the server put into the body.
async fn refuse(response: reqwest::Response) -> anyhow::Result<reqwest::Response> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let mut body = Vec::new();
    let mut chunks = response.bytes_stream();
    while let Some(Ok(chunk)) = chunks.next().await {
        body.extend_from_slice(&chunk);
        if body.len() >= ERROR_BYTES_MAX {
            break;
        }
    }
    let said = serde_json::from_slice::<Value>(&body)
        .ok()
        .and_then(|body| body["error"]["message"].as_str().map(str::to_owned))
        .unwrap_or_else(|| String::from_utf8_lossy(&body).trim().chars().take(400).collect());
    bail!("{status}: {said}");
}

/// Reads the data of one server-sent event.
fn pieces_of(data: &str) -> anyhow::Result<Vec<Piece>> {
    if data == "[DONE]" {
        return Ok(Vec::new());
    }
    let chunk: Value = serde_json::from_str(data).context("the stream carries broken JSON")?;
    if let Some(message) = chunk["error"]["message"].as_str() {
        bail!("{message}");
    }
    let mut pieces = Vec::new();
    let choice = &chunk["choices"][0];
    if let Some(text) = choice["delta"]["content"].as_str().filter(|text| !text.is_empty()) {
        pieces.push(Piece::Text(text.to_owned()));
    }
    if let Some(reason) = choice["finish_reason"].as_str() {
        pieces.push(Piece::Finished(reason.to_owned()));
    }
    if let Some(usage) = chunk["usage"].as_object() {
        let count = |name: &str| usage.get(name).and_then(Value::as_u64).unwrap_or(0);
        let cached_tokens = chunk["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64();
        pieces.push(Piece::Usage {
            prompt_tokens: count("prompt_tokens"),
            cached_tokens: cached_tokens.unwrap_or(0),
            completion_tokens: count("completion_tokens"),
        });
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_gives_its_text_then_its_end() {
        let data = r#"{"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}],"usage":null}"#;
        let expected = vec![Piece::Text("Hi".to_owned()), Piece::Finished("stop".to_owned())];
        assert_eq!(pieces_of(data).unwrap(), expected);
    }

    #[test]
    fn the_usage_chunk_has_no_choice() {
        let data = r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,
            "prompt_tokens_details":{"cached_tokens":4}}}"#;
        let expected = Piece::Usage { prompt_tokens: 7, cached_tokens: 4, completion_tokens: 3 };
        assert_eq!(pieces_of(data).unwrap(), vec![expected]);
    }

    #[test]
    fn an_error_in_the_stream_is_an_error() {
        let error = pieces_of(r#"{"error":{"message":"decode died","code":503}}"#).unwrap_err();
        assert_eq!(error.to_string(), "decode died");
        assert!(pieces_of("{").is_err());
        assert_eq!(pieces_of("[DONE]").unwrap(), Vec::new());
    }
}
