//! Responses as server-sent events: chunks, usage, errors in mid-stream, `[DONE]`.

use std::convert::Infallible;
use std::time::SystemTime;

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{FutureExt as _, Stream};
use protocol::Refusal;
use serde_json::Value;

use super::head::ResponseHead;
use super::{chat, completion};
use crate::api::choices::{ChoiceEvent, Choices};
use crate::api::params::StreamParams;
use crate::endpoint::Endpoint;
use crate::error::ApiError;
use crate::observe::recorder::RequestRecorder;
use crate::observe::stages::Timings;
use crate::observe::usage::Usage;
use crate::text::assembler::ChoiceDelta;

/// Events that are ready together go out in one write, up to about this many bytes.
const WRITE_BYTES: usize = 16 << 10;

/// The writer of one response's chunks.
struct Chunks {
    response: ResponseHead,
    /// Everything up to the choices, the same in each chunk.
    prefix: String,
    options: StreamParams,
    /// Choices whose role has been sent.
    introduced: Vec<bool>,
    /// Choices that have not ended.
    running: usize,
    usage: Usage,
}

/// A stream in progress.
struct LiveStream {
    chunks: Chunks,
    choices: Choices,
    recorder: RequestRecorder,
    /// The event that decided that this is a stream.
    first: Option<ChoiceEvent>,
    done: bool,
    /// The outcome, until it is recorded: after the last event has been handed over.
    outcome: Option<Result<(), Refusal>>,
}

/// Returns the response that streams `choices`, of which `first` has arrived already.
pub(crate) fn stream(
    response: ResponseHead,
    options: StreamParams,
    first: ChoiceEvent,
    choices: Choices,
    recorder: RequestRecorder,
) -> Response {
    let chunks = Chunks::new(response, options, choices.count, recorder.usage());
    let first = Some(first);
    let live = LiveStream { chunks, choices, recorder, first, done: false, outcome: None };
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, Body::from_stream(events(live))).into_response()
}

fn events(live: LiveStream) -> impl Stream<Item = Result<Bytes, Infallible>> {
    futures::stream::unfold(live, |mut live| async move {
        if live.done {
            return None;
        }
        let mut out = String::new();
        let mut event = match live.first.take() {
            Some(first) => Some(first),
            None => live.choices.next().await,
        };
        loop {
            live.write(&mut out, event);
            if live.done || out.len() > WRITE_BYTES {
                break;
            }
            match live.choices.next().now_or_never() {
                Some(next) => event = next,
                None => break,
            }
        }
        live.recorder.written();
        match live.outcome.take() {
            Some(Ok(())) => live.recorder.succeeded(),
            Some(Err(refusal)) => live.recorder.failed(&refusal),
            None => {}
        }
        Some((Ok(Bytes::from(out)), live))
    })
}

impl LiveStream {
    /// Writes one event; `None` is the end of the choices.
    fn write(&mut self, out: &mut String, event: Option<ChoiceEvent>) {
        match event {
            Some(ChoiceEvent { index, delta: Ok(delta) }) => {
                self.recorder.delta(&delta, index);
                if delta.ended.is_some() {
                    // A first token that is also the last is written together with its usage.
                    self.recorder.written();
                }
                self.chunks.usage = self.recorder.usage();
                self.chunks.delta(out, index, &delta, self.recorder.timings());
            }
            Some(ChoiceEvent { delta: Err(refusal), .. }) => {
                write_event(out, &ApiError::from(refusal.clone()).body().to_string());
                self.finish(out, Err(refusal));
            }
            None => {
                self.chunks.last_usage(out, self.recorder.timings());
                self.finish(out, Ok(()));
            }
        }
    }

    fn finish(&mut self, out: &mut String, outcome: Result<(), Refusal>) {
        write_event(out, "[DONE]");
        self.outcome = Some(outcome);
        self.choices.cancel();
        self.done = true;
    }
}

impl Chunks {
    fn new(response: ResponseHead, options: StreamParams, choices: usize, usage: Usage) -> Self {
        let object = match response.endpoint {
            Endpoint::Chat => "chat.completion.chunk",
            Endpoint::Completion => "text_completion",
        };
        let prefix = format!(
            r#"{{"id":{},"object":"{object}","created":{},"model":{},"system_fingerprint":{},"choices":["#,
            text_json(&response.id),
            response.created_s,
            text_json(&response.model),
            text_json(&response.fingerprint),
        );
        let introduced = vec![false; choices];
        Self { response, prefix, options, introduced, running: choices, usage }
    }

    fn delta(
        &mut self,
        out: &mut String,
        index: u32,
        delta: &ChoiceDelta,
        timings: Option<&Timings>,
    ) {
        let endpoint = self.response.endpoint;
        let introduced = std::mem::replace(&mut self.introduced[index as usize], true);
        if endpoint == Endpoint::Chat && !introduced {
            self.chunk(out, None, |_, out| chat::role_chunk(out, index));
        }
        // A token whose text is still held makes an empty chunk: clients see the pace of tokens.
        let silent_end = delta.ended.is_some() && delta.text.is_empty();
        if !silent_end || (self.response.logprobs && !delta.scores.is_empty()) {
            self.chunk(out, None, |head, out| match endpoint {
                Endpoint::Chat => chat::text_chunk(out, head, index, &delta.text, &delta.scores),
                Endpoint::Completion => {
                    completion::text_chunk(out, head, index, &delta.text, &delta.scores);
                }
            });
        }
        if let Some(ended) = &delta.ended {
            self.running = self.running.saturating_sub(1);
            let last = self.running == 0 && !self.options.include_usage;
            self.chunk(out, timings.filter(|_| last), |_, out| match endpoint {
                Endpoint::Chat => chat::end_chunk(out, index, ended),
                Endpoint::Completion => completion::end_chunk(out, index, ended),
            });
        }
    }

    fn chunk(
        &self,
        out: &mut String,
        timings: Option<&Timings>,
        choice: impl FnOnce(&ResponseHead, &mut String),
    ) {
        *out += "data: ";
        *out += &self.prefix;
        choice(&self.response, out);
        out.push(']');
        if self.options.continuous_usage {
            *out += r#","usage":"#;
            *out += &self.usage.json().to_string();
        } else if self.options.include_usage {
            *out += r#","usage":null"#;
        }
        add_timings(out, timings);
        *out += "}\n\n";
    }

    fn last_usage(&self, out: &mut String, timings: Option<&Timings>) {
        if self.options.include_usage {
            let mut chunk = format!(r#"{}],"usage":{}"#, self.prefix, self.usage.json());
            add_timings(&mut chunk, timings);
            chunk.push('}');
            write_event(out, &chunk);
        }
    }
}

/// Appends the stages of the request, which the last chunk carries.
fn add_timings(out: &mut String, timings: Option<&Timings>) {
    if let Some(timings) = timings {
        *out += r#","timings":"#;
        *out += &timings.json(SystemTime::now()).to_string();
    }
}

fn write_event(out: &mut String, data: &str) {
    *out += "data: ";
    *out += data;
    *out += "\n\n";
}

/// Returns a text as JSON.
pub(super) fn text_json(text: &str) -> String {
    Value::from(text).to_string()
}
