//! The handler of the two generation endpoints: from the request to the response.

use std::sync::Arc;
use std::time::SystemTime;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use chassis::clock::since_epoch;
use chassis::telemetry::{Caller, SpanKind, names};
use protocol::{ErrorClass, Refusal, RequestId};

use crate::api::app::App;
use crate::api::body;
use crate::api::choices::{self, ChoiceEvent, Choices, PreparedRequest, PromptBudget, RunContext};
use crate::api::params::{ChatRequest, CompletionRequest};
use crate::api::respond::{self, ResponseHead};
use crate::endpoint::Endpoint;
use crate::error::{ApiError, json_response};
use crate::observe::recorder::{Arrival, RecorderParts, RequestDetails, RequestRecorder};
use crate::observe::{baggage, stages};
use crate::text::model::TokenizedPrompt;

/// Longest body that is parsed and tokenized on the runtime's threads. A longer one would delay the
/// tokens of other requests and goes to a blocking thread.
const SHORT_BODY_BYTES: usize = 16 << 10;

/// Header with the request id; the router sets it on every request.
pub(crate) const REQUEST_ID: &str = "x-request-id";
/// Response header from which browsers and tools read a request's stages.
const SERVER_TIMING: &str = "server-timing";
const REQUEST_ID_ATTRIBUTE: &str = "http.request.header.x-request-id";
/// Longest `retry-after` of a refused request.
const RETRY_AFTER_S_MAX: f32 = 60.0;

/// Responds to a generation request.
pub(crate) async fn generate(app: Arc<App>, endpoint: Endpoint, request: Request) -> Response {
    let arrival = Arrival::now();
    let (parts, body) = request.into_parts();
    let caller = Caller {
        traceparent: text_of(&parts.headers, "traceparent"),
        tracestate: text_of(&parts.headers, "tracestate"),
    };
    let mut span = app.tracer.root_span(endpoint.span(), SpanKind::Server, caller, arrival.wall);
    if let Some(id) = text_of(&parts.headers, REQUEST_ID) {
        span.attribute(REQUEST_ID_ATTRIBUTE, id.to_owned());
    }
    if let Some(run) = text_of(&parts.headers, "baggage").and_then(baggage::run_id) {
        span.attribute(names::tandem::RUN_ID, run.to_owned());
    }
    let mut recorder = RequestRecorder::open(RecorderParts {
        span,
        metrics: Arc::clone(&app.http_metrics),
        slo: app.slo,
        record_contents: app.record_contents,
        endpoint,
        arrival,
    });
    let traceparent = HeaderValue::from_str(&recorder.trace().traceparent());
    let prepared = match stages::asked_for(&parts.headers) {
        Ok(asked) => {
            if asked {
                recorder.keep_timings();
            }
            prepare(&app, endpoint, body, arrival.wall, &mut recorder).await
        }
        Err(error) => Err(error),
    };
    let mut response = match prepared {
        Ok((request, head, id)) => respond(&app, request, head, id, recorder).await,
        Err(error) => {
            recorder.refused(&error);
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

/// Reads, checks, renders and tokenizes a request: everything before workers are involved.
async fn prepare(
    app: &Arc<App>,
    endpoint: Endpoint,
    body: Body,
    arrived: SystemTime,
    recorder: &mut RequestRecorder,
) -> Result<(PreparedRequest, ResponseHead, RequestId), ApiError> {
    let body = body::read(body, &app.limits).await?;
    app.check_ready()?;
    recorder.hold(app.inflight_permit()?);
    let request = if body.len() <= SHORT_BODY_BYTES {
        parse(app, endpoint, &body)?
    } else {
        app.run_blocking(move |app| parse(app, endpoint, &body)).await?
    };
    let id = RequestId(rand::random());
    let head = ResponseHead {
        endpoint,
        id: format!("{}{id}", endpoint.id_prefix()),
        created_s: since_epoch(arrived).as_secs(),
        model: app.text.model.clone(),
        fingerprint: app.text.fingerprint.clone(),
        vocabulary: Arc::clone(&app.text.vocabulary),
        logprobs: request.top_logprobs.is_some(),
    };
    recorder.prepared(&RequestDetails {
        request: id,
        response_id: &head.id,
        model: &head.model,
        prompts: request.prompts.iter().map(|it| &it.prompt).collect(),
        choices: request.params.choices,
        max_tokens: request.prompts.first().map(|it| it.max_tokens),
        sampling: &request.params.sampling,
        seed: request.params.seed,
        streams: request.params.stream.is_some(),
    });
    Ok((request, head, id))
}

/// Parses and tokenizes a request's body.
fn parse(app: &App, endpoint: Endpoint, body: &Bytes) -> Result<PreparedRequest, ApiError> {
    match endpoint {
        Endpoint::Chat => parse_chat(app, body),
        Endpoint::Completion => parse_completion(app, body),
    }
}

fn parse_chat(app: &App, body: &Bytes) -> Result<PreparedRequest, ApiError> {
    let request = ChatRequest::parse(body, app.parse_context())?;
    app.check_model(request.common.model.as_deref())?;
    let prompt = app.text.chat_prompt(&request.conversation, request.common.add_special_tokens)?;
    let budget = ContextBudget { context: app.max_model_len(), param: "messages" };
    let max_tokens = budget.max_tokens(&prompt, request.common.max_tokens, None)?;
    Ok(PreparedRequest {
        params: request.common,
        prompts: vec![PromptBudget { prompt, max_tokens }],
        top_logprobs: request.top_logprobs,
        echo: false,
    })
}

fn parse_completion(app: &App, body: &Bytes) -> Result<PreparedRequest, ApiError> {
    let request = CompletionRequest::parse(body, app.parse_context())?;
    app.check_model(request.common.model.as_deref())?;
    let budget = ContextBudget { context: app.max_model_len(), param: "prompt" };
    let mut prompts = Vec::with_capacity(request.prompts.len());
    for prompt in request.prompts {
        let prompt = app.text.completion_prompt(prompt, request.common.add_special_tokens)?;
        let default = Some(CompletionRequest::DEFAULT_MAX_TOKENS);
        let max_tokens = budget.max_tokens(&prompt, request.common.max_tokens, default)?;
        prompts.push(PromptBudget { prompt, max_tokens });
    }
    Ok(PreparedRequest {
        params: request.common,
        prompts,
        top_logprobs: request.logprobs,
        echo: request.echo,
    })
}

/// The context that prompt and output share.
struct ContextBudget {
    context: u32,
    /// The field that holds the prompt, for messages.
    param: &'static str,
}

impl ContextBudget {
    /// Returns the most tokens that may be generated after `prompt`: the number `requested`, which
    /// must fit, or else `default`, or else all that is left.
    fn max_tokens(
        &self,
        prompt: &TokenizedPrompt,
        requested: Option<u32>,
        default: Option<u32>,
    ) -> Result<u32, ApiError> {
        let (context, prompt_tokens) = (u64::from(self.context), prompt.tokens.len() as u64);
        let least = u64::from(requested != Some(0));
        if prompt_tokens + least > context {
            let message = format!(
                "this model's maximum context length is {context} tokens, however the {} has \
                 {prompt_tokens} tokens; please reduce its length",
                self.param,
            );
            return Err(ApiError::invalid(self.param, message));
        }
        let left = self.context - prompt.tokens.len() as u32;
        match requested {
            Some(requested) if requested > left => {
                let message = format!(
                    "this model's maximum context length is {context} tokens, however {requested} \
                     output tokens were requested after {prompt_tokens} prompt tokens; please \
                     reduce either",
                );
                Err(ApiError::invalid("max_tokens", message))
            }
            Some(requested) => Ok(requested),
            None => Ok(default.unwrap_or(left).min(left)),
        }
    }
}

/// Starts the generations and responds with their output.
async fn respond(
    app: &App,
    request: PreparedRequest,
    head: ResponseHead,
    id: RequestId,
    mut recorder: RequestRecorder,
) -> Response {
    let tokenized = SystemTime::now();
    recorder.tokenized(tokenized);
    let context = RunContext {
        trace: recorder.trace().clone(),
        tokenized,
        timeout: app.limits.request_timeout,
        stages: recorder.stage_notes(),
    };
    let stream = request.params.stream;
    let started = choices::start(&app.backend, &app.text, &request, id, context).await;
    // The first event decides the status: a failure before it is no stream.
    let first = match started {
        Ok(mut choices) => match choices.next().await {
            Some(ChoiceEvent { delta: Err(refusal), .. }) => Err(refusal),
            Some(event) => Ok((event, choices)),
            None => Err(Refusal::new(ErrorClass::Internal, "a request without choices")),
        },
        Err(refusal) => Err(refusal),
    };
    match first {
        Ok((first, choices)) => match stream {
            Some(options) => respond::stream(head, options, first, choices, recorder),
            None => respond_whole(&head, first, choices, recorder).await,
        },
        Err(refusal) => {
            recorder.failed(&refusal);
            ApiError::from(refusal).into_response()
        }
    }
}

async fn respond_whole(
    head: &ResponseHead,
    first: ChoiceEvent,
    choices: Choices,
    mut recorder: RequestRecorder,
) -> Response {
    match choices.collect(first, &mut recorder).await {
        Ok(finished) => {
            recorder.succeeded();
            let mut body = head.whole(finished, &recorder.usage());
            let Some(timings) = recorder.timings() else {
                return json_response(StatusCode::OK, &body);
            };
            let now = SystemTime::now();
            body["timings"] = timings.json(now);
            let mut response = json_response(StatusCode::OK, &body);
            if let Ok(stages) = HeaderValue::from_str(&timings.header(now)) {
                response.headers_mut().insert(SERVER_TIMING, stages);
            }
            response
        }
        Err(refusal) => {
            recorder.failed(&refusal);
            ApiError::from(refusal).into_response()
        }
    }
}
