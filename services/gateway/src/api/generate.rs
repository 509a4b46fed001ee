//! The two generation endpoints, from the request to the response.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::extract::Request;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use chassis::telemetry::{SpanKind, names};
use protocol::{ErrorClass, Refusal, RequestId};

use crate::api::app::App;
use crate::api::body;
use crate::api::choices::{self, Choices, Item, Times, Work};
use crate::api::params::{ChatRequest, CompletionRequest};
use crate::api::respond::{self, Reply};
use crate::endpoint::Endpoint;
use crate::error::{ApiError, json_response};
use crate::observe::recorder::{Account, RequestDetails};
use crate::observe::slo;
use crate::observe::stages;
use crate::text::model::Prepared;

/// Longest body that is parsed and tokenized on the spot; a longer one would hold up the tokens of
/// other requests, and goes to a thread of its own.
const SHORT_BODY_BYTES: usize = 16 << 10;

/// Every request has one when it comes here.
pub(crate) const REQUEST_ID: &str = "x-request-id";
/// What browsers and tools read a request's stages from.
const SERVER_TIMING: &str = "server-timing";
const REQUEST_ID_ATTRIBUTE: &str = "http.request.header.x-request-id";
/// Longest time that a refused client is told to wait.
const RETRY_AFTER_S_MAX: f32 = 60.0;

/// Answers a generation request.
pub(crate) async fn answer(app: Arc<App>, endpoint: Endpoint, request: Request) -> Response {
    let (at, arrived) = (Instant::now(), SystemTime::now());
    let (parts, body) = request.into_parts();
    let caller = (text_of(&parts.headers, "traceparent"), text_of(&parts.headers, "tracestate"));
    let mut span = app.tracer.root_span(endpoint.span(), SpanKind::Server, caller, arrived);
    if let Some(id) = text_of(&parts.headers, REQUEST_ID) {
        span.attribute(REQUEST_ID_ATTRIBUTE, id.to_owned());
    }
    if let Some(run) = text_of(&parts.headers, "baggage").and_then(judge::run_id) {
        span.attribute(names::tandem::RUN_ID, run.to_owned());
    }
    let metrics = Arc::clone(&app.http_metrics);
    let mut account = Account::open(span, metrics, app.judge, endpoint, (at, arrived));
    let traceparent = HeaderValue::from_str(&account.trace().traceparent());
    let prepared = match stages::asked_for(&parts.headers) {
        Ok(asked) => {
            if asked {
                account.keep_timings();
            }
            prepare(&app, endpoint, body, arrived, &mut account).await
        }
        Err(error) => Err(error),
    };
    let mut response = match prepared {
        Ok((work, reply, id)) => respond(&app, work, reply, id, account).await,
        Err(error) => {
            account.refused(&error);
            error.into_response()
        }
    };
    let headers = response.headers_mut();
    if let Ok(traceparent) = traceparent {
        headers.insert("traceparent", traceparent);
    }
    if headers.contains_key(RETRY_AFTER) {
        let seconds = app.backend.retry_after().as_secs_f32().ceil().clamp(1.0, RETRY_AFTER_S_MAX);
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds as u32));
    }
    response
}

fn text_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Everything before the first message goes out: read, check, render, tokenize.
async fn prepare(
    app: &Arc<App>,
    endpoint: Endpoint,
    body: axum::body::Body,
    arrived: SystemTime,
    account: &mut Account,
) -> Result<(Work, Reply, RequestId), ApiError> {
    let body = body::read(body, &app.limits).await?;
    app.check_ready()?;
    account.hold(app.place()?);
    let work = if body.len() <= SHORT_BODY_BYTES {
        understand(app, endpoint, &body)?
    } else {
        app.aside(move |app| understand(app, endpoint, &body)).await?
    };
    let id = RequestId(rand::random());
    let reply = Reply {
        endpoint,
        id: format!("{}{id}", endpoint.id_prefix()),
        created_s: arrived.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        model: app.text.model.clone(),
        fingerprint: app.text.fingerprint.clone(),
        vocabulary: Arc::clone(&app.text.vocabulary),
        logprobs: work.top_logprobs.is_some(),
    };
    account.prepared(&RequestDetails {
        request: id,
        response_id: &reply.id,
        model: &reply.model,
        prompts: work.prompts.iter().map(|(prompt, _)| prompt).collect(),
        choices: work.params.choices,
        max_tokens: work.prompts.first().map(|(_, max_tokens)| *max_tokens),
        sampling: &work.params.sampling,
        seed: work.params.seed,
        streams: work.params.stream.is_some(),
    });
    Ok((work, reply, id))
}

/// Reads a request's body into the work it asks for.
fn understand(app: &App, endpoint: Endpoint, body: &Bytes) -> Result<Work, ApiError> {
    match endpoint {
        Endpoint::Chat => understand_chat(app, body),
        Endpoint::Completion => understand_completion(app, body),
    }
}

fn understand_chat(app: &App, body: &Bytes) -> Result<Work, ApiError> {
    let request = ChatRequest::parse(body, app.bounds())?;
    app.check_model(request.generation.model.as_deref())?;
    let prompt =
        app.text.chat_prompt(&request.conversation, request.generation.add_special_tokens)?;
    let room = Room { context: app.max_model_len(), param: "messages" };
    let max_tokens = room.max_tokens(&prompt, request.generation.max_tokens, None)?;
    Ok(Work {
        params: request.generation,
        prompts: vec![(prompt, max_tokens)],
        top_logprobs: request.top_logprobs,
        echo: false,
    })
}

fn understand_completion(app: &App, body: &Bytes) -> Result<Work, ApiError> {
    let request = CompletionRequest::parse(body, app.bounds())?;
    app.check_model(request.generation.model.as_deref())?;
    let room = Room { context: app.max_model_len(), param: "prompt" };
    let mut prompts = Vec::with_capacity(request.prompts.len());
    for prompt in request.prompts {
        let prompt = app.text.completion_prompt(prompt, request.generation.add_special_tokens)?;
        let default = Some(CompletionRequest::MAX_TOKENS_DEFAULT);
        let max_tokens = room.max_tokens(&prompt, request.generation.max_tokens, default)?;
        prompts.push((prompt, max_tokens));
    }
    Ok(Work {
        params: request.generation,
        prompts,
        top_logprobs: request.logprobs,
        echo: request.echo,
    })
}

/// The context that prompt and output share.
struct Room {
    context: u32,
    param: &'static str,
}

impl Room {
    /// How many tokens may be generated after `prompt`: what was asked for, which must fit, or else
    /// `default`, or else all that is left.
    fn max_tokens(
        &self,
        prompt: &Prepared,
        asked: Option<u32>,
        default: Option<u32>,
    ) -> Result<u32, ApiError> {
        let (context, prompt_tokens) = (u64::from(self.context), prompt.tokens.len() as u64);
        let least = u64::from(asked != Some(0));
        if context < prompt_tokens + least {
            let message = format!(
                "this model's maximum context length is {context} tokens, however the {} has \
                 {prompt_tokens} tokens; please reduce its length",
                self.param,
            );
            return Err(ApiError::invalid(self.param, message));
        }
        let left = self.context - prompt.tokens.len() as u32;
        match asked {
            Some(asked) if left < asked => {
                let message = format!(
                    "this model's maximum context length is {context} tokens, however {asked} \
                     output tokens were requested after {prompt_tokens} prompt tokens; please \
                     reduce either",
                );
                Err(ApiError::invalid("max_tokens", message))
            }
            Some(asked) => Ok(asked),
            None => Ok(default.unwrap_or(left).min(left)),
        }
    }
}

/// Starts the work and answers with it.
async fn respond(
    app: &App,
    work: Work,
    reply: Reply,
    id: RequestId,
    mut account: Account,
) -> Response {
    let tokenized = SystemTime::now();
    account.tokenized(tokenized);
    let times = Times {
        trace: account.trace().clone(),
        tokenized,
        timeout: app.limits.request_timeout,
        stages: account.stage_notes(),
    };
    let stream = work.params.stream;
    let started = generate::start(&app.backend, &app.text, &work, id, times).await;
    // The status is decided by the first step: what fails before it is no stream.
    let first = match started {
        Ok(mut choices) => match choices.next().await {
            Some((_, Err(refusal))) => Err(refusal),
            Some(item) => Ok((item, choices)),
            None => Err(Refusal::new(ErrorClass::Internal, "a request without choices")),
        },
        Err(refusal) => Err(refusal),
    };
    match first {
        Ok((first, choices)) => match stream {
            Some(options) => respond::stream(reply, options, first, choices, account),
            None => whole(&reply, first, choices, account).await,
        },
        Err(refusal) => {
            account.failed(&refusal);
            ApiError::from(refusal).into_response()
        }
    }
}

async fn whole(reply: &Reply, first: Item, choices: Choices, mut account: Account) -> Response {
    match choices.collect(first, &mut account).await {
        Ok(finished) => {
            account.succeeded();
            let mut answer = reply.whole(finished, &account.usage());
            let Some(timings) = account.timings() else {
                return json_response(StatusCode::OK, &answer);
            };
            let now = SystemTime::now();
            answer["timings"] = timings.json(now);
            let mut response = json_response(StatusCode::OK, &answer);
            if let Ok(stages) = HeaderValue::from_str(&timings.header(now)) {
                response.headers_mut().insert(SERVER_TIMING, stages);
            }
            response
        }
        Err(refusal) => {
            account.failed(&refusal);
            ApiError::from(refusal).into_response()
        }
    }
}
