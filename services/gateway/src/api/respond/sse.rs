//! Answers as server-sent events: chunks, usage, errors in mid-stream, `[DONE]`.

use std::convert::Infallible;
use std::time::SystemTime;

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{FutureExt as _, Stream};
use protocol::Refusal;
use serde_json::Value;

use super::reply::Reply;
use super::{chat, completion};
use crate::api::choices::{Choices, Item};
use crate::api::params::StreamParams;
use crate::endpoint::Endpoint;
use crate::error::ApiError;
use crate::observe::recorder::Account;
use crate::observe::stages::Timings;
use crate::observe::usage::Usage;
use crate::text::assembler::Step;

/// Events that are ready together go out in one write, up to about this many bytes.
const WRITE_BYTES: usize = 16 << 10;

/// Writes the chunks of one answer.
struct Chunks {
    reply: Reply,
    /// Everything up to the choices, the same in each chunk.
    head: String,
    options: StreamParams,
    /// Choices that have said who speaks.
    introduced: Vec<bool>,
    /// Choices that have not ended.
    running: usize,
    usage: Usage,
}

/// A stream in progress.
struct Live {
    chunks: Chunks,
    choices: Choices,
    account: Account,
    /// The item that decided that this is a stream.
    first: Option<Item>,
    done: bool,
    /// How it ended, until that is written down: after the last event has been handed over.
    outcome: Option<Result<(), Refusal>>,
}

/// The response that streams `choices`, of which `first` has arrived already.
pub(crate) fn stream(
    reply: Reply,
    options: StreamParams,
    first: Item,
    choices: Choices,
    account: Account,
) -> Response {
    let chunks = Chunks::new(reply, options, choices.count, account.usage());
    let live = Live { chunks, choices, account, first: Some(first), done: false, outcome: None };
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, Body::from_stream(events(live))).into_response()
}

fn events(live: Live) -> impl Stream<Item = Result<Bytes, Infallible>> {
    futures::stream::unfold(live, |mut live| async move {
        if live.done {
            return None;
        }
        let mut out = String::new();
        let mut item = match live.first.take() {
            Some(first) => Some(first),
            None => live.choices.next().await,
        };
        loop {
            live.take(&mut out, item);
            if live.done || WRITE_BYTES < out.len() {
                break;
            }
            match live.choices.next().now_or_never() {
                Some(next) => item = next,
                None => break,
            }
        }
        live.account.written();
        match live.outcome.take() {
            Some(Ok(())) => live.account.succeeded(),
            Some(Err(refusal)) => live.account.failed(&refusal),
            None => {}
        }
        Some((Ok(Bytes::from(out)), live))
    })
}

impl Live {
    /// Writes what one item says; the end of the choices is `None`.
    fn take(&mut self, out: &mut String, item: Option<Item>) {
        match item {
            Some((index, Ok(step))) => {
                self.account.step(&step, index);
                if step.ended.is_some() {
                    // A first token that is also the last goes out in one write with the account of it.
                    self.account.written();
                }
                self.chunks.usage = self.account.usage();
                self.chunks.step(out, index, &step, self.account.timings());
            }
            Some((_, Err(refusal))) => {
                event(out, &ApiError::from(refusal.clone()).body().to_string());
                self.finish(out, Err(refusal));
            }
            None => {
                self.chunks.last_usage(out, self.account.timings());
                self.finish(out, Ok(()));
            }
        }
    }

    fn finish(&mut self, out: &mut String, outcome: Result<(), Refusal>) {
        event(out, "[DONE]");
        self.outcome = Some(outcome);
        self.choices.give_up();
        self.done = true;
    }
}

impl Chunks {
    fn new(reply: Reply, options: StreamParams, choices: usize, usage: Usage) -> Self {
        let object = match reply.endpoint {
            Endpoint::Chat => "chat.completion.chunk",
            Endpoint::Completion => "text_completion",
        };
        let head = format!(
            r#"{{"id":{},"object":"{object}","created":{},"model":{},"system_fingerprint":{},"choices":["#,
            text_json(&reply.id),
            reply.created_s,
            text_json(&reply.model),
            text_json(&reply.fingerprint),
        );
        let introduced = vec![false; choices];
        Self { reply, head, options, introduced, running: choices, usage }
    }

    fn step(&mut self, out: &mut String, index: u32, step: &Step, timings: Option<&Timings>) {
        let chat = self.reply.endpoint == Endpoint::Chat;
        let introduced = std::mem::replace(&mut self.introduced[index as usize], true);
        if chat && !introduced {
            self.chunk(out, None, |_, out| chat::role_chunk(out, index));
        }
        // A token whose text is still held makes an empty chunk: clients see the pace of tokens.
        let silent_end = step.ended.is_some() && step.text.is_empty();
        let speaks = !silent_end || (self.reply.logprobs && !step.scores.is_empty());
        if speaks {
            self.chunk(out, None, |reply, out| match chat {
                true => chat::text_chunk(out, reply, index, &step.text, &step.scores),
                false => completion::text_chunk(out, reply, index, &step.text, &step.scores),
            });
        }
        if let Some(ended) = &step.ended {
            self.running = self.running.saturating_sub(1);
            let last = self.running == 0 && !self.options.include_usage;
            self.chunk(out, timings.filter(|_| last), |_, out| match chat {
                true => chat::end_chunk(out, index, ended),
                false => completion::end_chunk(out, index, ended),
            });
        }
    }

    fn chunk(
        &self,
        out: &mut String,
        timings: Option<&Timings>,
        choice: impl FnOnce(&Reply, &mut String),
    ) {
        *out += "data: ";
        *out += &self.head;
        choice(&self.reply, out);
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
            let mut chunk = format!(r#"{}],"usage":{}"#, self.head, self.usage.json());
            add_timings(&mut chunk, timings);
            chunk.push('}');
            event(out, &chunk);
        }
    }
}

/// The stages of the request, on the last chunk.
fn add_timings(out: &mut String, timings: Option<&Timings>) {
    if let Some(timings) = timings {
        *out += r#","timings":"#;
        *out += &timings.json(SystemTime::now()).to_string();
    }
}

fn event(out: &mut String, data: &str) {
    *out += "data: ";
    *out += data;
    *out += "\n\n";
}

/// A text as JSON.
pub(super) fn text_json(text: &str) -> String {
    Value::from(text).to_string()
}
