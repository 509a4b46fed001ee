//! A client of Jaeger's HTTP API, version 3.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::span::{self, Span};
use crate::http;

/// A search through a full memory store takes a while.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// Traces of one search.
pub(super) const SEARCH_MAX: usize = 1_000;
/// The operation names of generation requests.
pub(super) const OPERATIONS: [&str; 2] = ["POST /v1/chat/completions", "POST /v1/completions"];

/// The reason for which there is no trace to show.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JaegerError {
    /// The endpoint does not answer.
    #[error("no Jaeger answers at {url}: {source} (--jaeger URL says where its query API is)")]
    Unreachable { url: String, source: reqwest::Error },
    /// The endpoint answered with an error, or is not Jaeger.
    #[error("{url} answers {status}: {body}")]
    Refused { url: String, status: u16, body: String },
    /// The answer is no OTLP in JSON.
    #[error("{url} answers what is no trace: {reason}")]
    Malformed { url: String, reason: String },
}

/// A Jaeger.
pub(super) struct Jaeger {
    base: String,
    http: reqwest::Client,
}

impl Jaeger {
    pub(super) fn new(base: &str) -> Result<Self, reqwest::Error> {
        let http = http::client_for(base).timeout(ANSWER_LIMIT).build()?;
        Ok(Self { base: base.trim_end_matches('/').to_owned(), http })
    }

    /// The spans of one trace; empty when it is not there.
    pub(super) async fn trace(&self, id: &str) -> Result<Vec<Span>, JaegerError> {
        let traces = self.ask(&format!("/api/v3/traces/{id}"), &[]).await?;
        Ok(traces.into_values().next().unwrap_or_default())
    }

    /// The newest traces of a service in which this operation began since then.
    pub(super) async fn find(
        &self,
        service: &str,
        operation: Option<&str>,
        since: Duration,
    ) -> Result<BTreeMap<String, Vec<Span>>, JaegerError> {
        let now = Timestamp::now();
        let from = now.saturating_sub(since).unwrap_or(Timestamp::UNIX_EPOCH);
        let (from, to) = (from.to_string(), now.to_string());
        let depth = SEARCH_MAX.to_string();
        let mut query = vec![
            ("query.service_name", service),
            ("query.start_time_min", &from),
            ("query.start_time_max", &to),
            ("query.num_traces", &depth),
        ];
        query.extend(operation.map(|operation| ("query.operation_name", operation)));
        self.ask("/api/v3/traces", &query).await
    }

    async fn ask(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<BTreeMap<String, Vec<Span>>, JaegerError> {
        let pairs = query.iter().map(|(key, value)| format!("{key}={}", encoded(value)));
        let query = pairs.collect::<Vec<_>>().join("&");
        let url = format!("{}{path}?{query}", self.base);
        let unreachable = |source| JaegerError::Unreachable { url: self.base.clone(), source };
        let response = self.http.get(&url).send().await.map_err(unreachable)?;
        let status = response.status().as_u16();
        let body = response.text().await.map_err(unreachable)?;
        match status {
            200 => span::parse(&body).map_err(|reason| JaegerError::Malformed { url, reason }),
            404 if body.contains("No traces found") || body.contains("trace not found") => {
                Ok(BTreeMap::new())
            }
            _ => Err(JaegerError::Refused { url, status, body: body.chars().take(300).collect() }),
        }
    }
}

/// A value as it may stand in a query.
fn encoded(value: &str) -> String {
    let written = value.bytes().map(|byte| {
        let is_plain = byte.is_ascii_alphanumeric() || b"-_.~:/".contains(&byte);
        if is_plain { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    });
    written.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_a_meaning_in_a_query_is_written_out() {
        assert_eq!(encoded("POST /v1/a&b=c%"), "POST%20/v1/a%26b%3Dc%25");
        assert_eq!(encoded("2026-11-24T13:00:00.5Z"), "2026-11-24T13:00:00.5Z");
    }
}
