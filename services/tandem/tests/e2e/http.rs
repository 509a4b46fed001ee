//! A plain HTTP client of the API, with every wait bounded.

use std::time::Duration;

use eventsource_stream::Eventsource as _;
use futures::StreamExt as _;
use serde_json::Value;

/// Longest silence of a server that has 16 streams on two cores.
const SILENCE_LIMIT: Duration = Duration::from_secs(120);

/// Sends a request without streaming; returns the status and the body.
pub(crate) async fn post(base: &str, path: &str, body: &Value) -> (u16, Value) {
    let response = client().post(format!("{base}{path}")).json(body).send().await.expect("sent");
    let status = response.status().as_u16();
    (status, response.json().await.expect("a JSON body"))
}

/// Sends a request that must succeed; returns the body.
pub(crate) async fn ask(base: &str, path: &str, body: &Value) -> Value {
    let (status, answer) = post(base, path, body).await;
    assert_eq!(status, 200, "{answer:#}");
    answer
}

/// Returns status and body of a GET, or `None` while no server listens.
pub(crate) async fn get(url: &str) -> Option<(u16, String)> {
    let response = client().get(url).send().await.ok()?;
    let status = response.status().as_u16();
    Some((status, response.text().await.ok()?))
}

/// A running stream of JSON events.
pub(crate) struct Stream {
    events: futures::stream::BoxStream<'static, String>,
    /// The trace id in the response's `traceparent`.
    pub(crate) trace_id: Option<String>,
}

impl Stream {
    /// Sends `body` with `"stream": true`.
    pub(crate) async fn open(base: &str, path: &str, body: &Value) -> Self {
        Self::of(client().post(format!("{base}{path}")), body).await
    }

    /// Sends `body` as part of the caller's trace.
    pub(crate) async fn open_in(base: &str, path: &str, body: &Value, traceparent: &str) -> Self {
        let request = client().post(format!("{base}{path}")).header("traceparent", traceparent);
        Self::of(request, body).await
    }

    async fn of(request: reqwest::RequestBuilder, body: &Value) -> Self {
        let mut body = body.clone();
        body["stream"] = true.into();
        let response = request.json(&body).send().await.expect("sent");
        let status = response.status().as_u16();
        assert_eq!(status, 200, "{}", response.text().await.unwrap_or_default());
        let header = response.headers().get("traceparent").and_then(|value| value.to_str().ok());
        let trace_id = header.and_then(|value| value.split('-').nth(1)).map(str::to_owned);
        let events = response.bytes_stream().eventsource();
        let data = events.map(|event| event.expect("a whole event").data).boxed();
        Self { events: data, trace_id }
    }

    /// Returns the next event, or `None` after `[DONE]`.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        let data = self.events.next().await.expect("a stream ends with [DONE]");
        if data == "[DONE]" {
            assert!(self.events.next().await.is_none(), "nothing follows [DONE]");
            return None;
        }
        Some(serde_json::from_str(&data).expect("an event holds JSON"))
    }

    /// Returns all further events.
    pub(crate) async fn rest(mut self) -> Vec<Value> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

/// Returns the text of the events, of either API.
pub(crate) fn text_of(events: &[Value]) -> String {
    let texts = events.iter().map(|event| {
        let choice = &event["choices"][0];
        choice["text"].as_str().or(choice["delta"]["content"].as_str()).unwrap_or_default()
    });
    texts.collect()
}

fn client() -> reqwest::Client {
    testbed::http().read_timeout(SILENCE_LIMIT).build().expect("an HTTP client")
}
