//! The record of one request: its root span, its stages, its metrics.
//!
//! **Invariant**: a recorder is closed exactly once. One that is dropped while open belongs to a
//! client that disconnected.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use chassis::telemetry::{OpenSpan, Trace, names};
use protocol::{ErrorClass, Refusal, RequestId, Sampling};
use tokio::sync::OwnedSemaphorePermit;
use tracing::{debug, warn};

use crate::endpoint::Endpoint;
use crate::error::ApiError;
use crate::observe::contents::Contents;
use crate::observe::metrics::HttpMetrics;
use crate::observe::slo::SloPolicy;
use crate::observe::stages::{StageNotes, Timings};
use crate::observe::usage::Usage;
use crate::text::assembler::ChoiceDelta;
use crate::text::model::TokenizedPrompt;

/// Status of a request whose client disconnected, as proxies write it.
const CLIENT_CLOSED: u16 = 499;

/// The recorder of one request.
pub(crate) struct RequestRecorder {
    /// Taken when the recorder is closed.
    span: Option<OpenSpan>,
    trace: Trace,
    metrics: Arc<HttpMetrics>,
    endpoint: Endpoint,
    arrival: Arrival,
    usage: Usage,
    choices: u32,
    /// Cached tokens of each prompt: the most that any of its choices found.
    cached_tokens: Vec<u64>,
    /// Arrival of each choice's last token.
    last_tokens: Vec<Option<Instant>>,
    finish_reasons: Vec<&'static str>,
    first: FirstToken,
    slo: SloPolicy,
    slo_missed: bool,
    record_contents: bool,
    /// Present if the root span carries the texts.
    contents: Option<Contents>,
    /// Present if the client asked for its stages.
    timings: Option<Timings>,
    /// The in-flight permit, until the recorder is closed.
    permit: Option<OwnedSemaphorePermit>,
}

/// The parts of a new recorder.
pub(crate) struct RecorderParts {
    pub(crate) span: OpenSpan,
    pub(crate) metrics: Arc<HttpMetrics>,
    pub(crate) slo: SloPolicy,
    pub(crate) record_contents: bool,
    pub(crate) endpoint: Endpoint,
    pub(crate) arrival: Arrival,
}

/// The arrival of a request on both clocks.
#[derive(Clone, Copy)]
pub(crate) struct Arrival {
    /// For durations.
    monotonic: Instant,
    /// For spans.
    pub(crate) wall: SystemTime,
}

impl Arrival {
    /// Returns the present moment.
    pub(crate) fn now() -> Self {
        Self { monotonic: Instant::now(), wall: SystemTime::now() }
    }
}

/// A request that was parsed and tokenized, as its span describes it.
pub(crate) struct RequestDetails<'a> {
    /// The id of the first choice.
    pub(crate) request: RequestId,
    pub(crate) response_id: &'a str,
    pub(crate) model: &'a str,
    pub(crate) prompts: Vec<&'a TokenizedPrompt>,
    /// Choices per prompt.
    pub(crate) choices: u32,
    /// Most output tokens of a choice of the first prompt.
    pub(crate) max_tokens: Option<u32>,
    pub(crate) sampling: &'a Sampling,
    pub(crate) seed: Option<u64>,
    pub(crate) streams: bool,
}

/// The progress of the first token to the client.
#[derive(Clone, Copy)]
enum FirstToken {
    Awaited,
    /// Sent by a worker for choice `index`.
    Sent {
        index: u32,
        at: SystemTime,
    },
    /// Handed to the client's connection.
    Written {
        at: SystemTime,
    },
}

impl RequestRecorder {
    /// Opens the record of a request.
    pub(crate) fn open(parts: RecorderParts) -> Self {
        let RecorderParts { mut span, metrics, slo, record_contents, endpoint, arrival } = parts;
        span.attribute(names::HTTP_REQUEST_METHOD, "POST");
        span.attribute(names::HTTP_ROUTE, endpoint.path());
        span.attribute(names::GEN_AI_OPERATION_NAME, endpoint.operation());
        span.attribute(names::GEN_AI_PROVIDER_NAME, names::PROVIDER);
        metrics.running.inc();
        Self {
            trace: span.context(),
            span: Some(span),
            metrics,
            endpoint,
            arrival,
            usage: Usage::default(),
            choices: 1,
            cached_tokens: Vec::new(),
            last_tokens: Vec::new(),
            finish_reasons: Vec::new(),
            first: FirstToken::Awaited,
            slo,
            slo_missed: false,
            record_contents,
            contents: None,
            timings: None,
            permit: None,
        }
    }

    /// Returns the trace context under the request's span.
    pub(crate) fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Returns the tokens so far.
    pub(crate) fn usage(&self) -> Usage {
        self.usage
    }

    /// Holds an in-flight permit until the recorder is closed.
    pub(crate) fn hold(&mut self, permit: OwnedSemaphorePermit) {
        self.permit = Some(permit);
    }

    /// Records the parameters of the request.
    pub(crate) fn prepared(&mut self, details: &RequestDetails<'_>) {
        let prompt_tokens = details.prompts.iter().map(|prompt| prompt.tokens.len() as u64).sum();
        self.usage.prompt_tokens = prompt_tokens;
        self.choices = details.choices;
        self.cached_tokens = vec![0; details.prompts.len()];
        self.last_tokens = vec![None; details.prompts.len() * self.choices as usize];
        if self.record_contents && self.trace.is_recorded() {
            let prompts = details.prompts.iter().map(|prompt| prompt.text.as_str());
            self.contents = Some(Contents::new(prompts, self.last_tokens.len()));
        }
        let Some(span) = &mut self.span else { return };
        let sampling = details.sampling;
        span.attribute(names::GEN_AI_REQUEST_MODEL, details.model.to_owned());
        span.attribute(names::GEN_AI_RESPONSE_MODEL, details.model.to_owned());
        span.attribute(names::GEN_AI_RESPONSE_ID, details.response_id.to_owned());
        span.attribute(names::tandem::REQUEST_ID, details.request.to_string());
        span.attribute(names::GEN_AI_REQUEST_STREAM, details.streams);
        span.attribute(names::GEN_AI_REQUEST_TEMPERATURE, sampling.temperature);
        span.attribute(names::GEN_AI_REQUEST_TOP_P, sampling.top_p);
        span.attribute(names::GEN_AI_REQUEST_TOP_K, sampling.top_k);
        if let Some(max_tokens) = details.max_tokens {
            span.attribute(names::GEN_AI_REQUEST_MAX_TOKENS, max_tokens);
        }
        if let Some(seed) = details.seed {
            span.attribute(names::GEN_AI_REQUEST_SEED, seed);
        }
        span.attribute(names::GEN_AI_USAGE_INPUT_TOKENS, prompt_tokens);
    }

    /// Records the end of tokenizing.
    pub(crate) fn tokenized(&mut self, now: SystemTime) {
        let attributes = [(names::tandem::TOKENS, self.usage.prompt_tokens.into())];
        self.trace.stage(names::stage::TOKENIZE, self.arrival.wall.min(now)..now, attributes);
        if let Some(timings) = &mut self.timings {
            timings.tokenized(now);
        }
    }

    /// Keeps the stages for the client.
    pub(crate) fn keep_timings(&mut self) {
        self.timings = Some(Timings::new(self.arrival.wall));
    }

    /// Returns the stage notes of each choice; empty unless the client asked for stages.
    pub(crate) fn stage_notes(&mut self) -> Vec<StageNotes> {
        let choices = self.last_tokens.len();
        self.timings
            .as_mut()
            .map_or_else(Vec::new, |timings| (0..choices).map(|_| timings.choice()).collect())
    }

    /// Returns the stages so far, if the client asked for them.
    pub(crate) fn timings(&self) -> Option<&Timings> {
        self.timings.as_ref()
    }

    /// Records a delta of choice `index`.
    pub(crate) fn delta(&mut self, delta: &ChoiceDelta, index: u32) {
        let now = Instant::now();
        if let Some(contents) = &mut self.contents {
            contents.add(index as usize, &delta.text);
        }
        if matches!(self.first, FirstToken::Awaited) {
            let at = UNIX_EPOCH + Duration::from_micros(delta.sent_us);
            self.first = FirstToken::Sent { index, at };
        }
        self.usage.completion_tokens += u64::from(delta.tokens);
        if let Some(cached) = delta.cached_tokens {
            let prompt = &mut self.cached_tokens[(index / self.choices) as usize];
            *prompt = u64::from(cached).max(*prompt);
            self.usage.cached_tokens = self.cached_tokens.iter().sum();
        }
        if delta.tokens != 0
            && let Some(last) = self.last_tokens[index as usize].replace(now)
        {
            self.metrics.itl_seconds.observe_duration(now - last, &self.trace);
        }
        if let Some(ended) = &delta.ended {
            self.finish_reasons.push(ended.reason);
        }
    }

    /// Records that all deltas so far were handed to the client's connection.
    pub(crate) fn written(&mut self) {
        let FirstToken::Sent { index, at: sent } = self.first else { return };
        let (now, ttft) = (SystemTime::now(), self.arrival.monotonic.elapsed());
        self.first = FirstToken::Written { at: now };
        self.check_slo(self.slo.misses_ttft(ttft.as_secs_f64() * 1e3), now);
        // Another machine's clock may be ahead of ours.
        self.trace.stage(names::stage::FIRST_TOKEN, sent.min(now)..now, []);
        self.metrics.ttft_seconds.observe_duration(ttft, &self.trace);
        if let Some(timings) = &mut self.timings {
            timings.first_token(index as usize, sent, now, ttft.as_secs_f64() * 1e3);
        }
        if let Some(span) = &mut self.span {
            let seconds = ttft.as_secs_f64();
            span.attribute(names::GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK, seconds);
            span.attribute(names::tandem::TTFT_MS, seconds * 1000.0);
            span.event(names::event::FIRST_TOKEN, now, []);
        }
    }

    /// Keeps the trace of a request that misses its SLO.
    fn check_slo(&mut self, missed: bool, now: SystemTime) {
        if missed && !self.slo_missed {
            self.slo_missed = true;
            self.trace.decide(true);
            if let Some(span) = &mut self.span {
                span.event(names::event::SLO_MISSED, now, []);
            }
        }
    }

    /// Returns the milliseconds of the tokens after the first, and their number per choice.
    fn rest(&self, now: SystemTime) -> Option<(f64, u64)> {
        let FirstToken::Written { at: first } = self.first else { return None };
        let choices = self.last_tokens.len().max(1) as u64;
        let rest = (self.usage.completion_tokens / choices).saturating_sub(1);
        let took = now.duration_since(first).unwrap_or_default();
        (rest != 0).then_some((took.as_secs_f64() * 1e3, rest))
    }

    /// Closes the recorder of a request whose response is complete.
    pub(crate) fn succeeded(&mut self) {
        for reason in &self.finish_reasons {
            self.metrics.choice_ended(reason);
        }
        self.metrics.request_prompt_tokens.observe(self.usage.prompt_tokens as f64, &self.trace);
        self.metrics
            .request_generation_tokens
            .observe(self.usage.completion_tokens as f64, &self.trace);
        self.close(200, None);
    }

    /// Closes the recorder of a request that was refused before anything was sent.
    pub(crate) fn refused(&mut self, error: &ApiError) {
        let class = match error.status.as_u16() {
            400..500 => ErrorClass::Invalid.as_str(),
            503 => ErrorClass::Retry.as_str(),
            504 => ErrorClass::Deadline.as_str(),
            _ => ErrorClass::Internal.as_str(),
        };
        self.close(error.status.as_u16(), Some((class, &error.message)));
    }

    /// Closes the recorder of a request whose generation failed.
    pub(crate) fn failed(&mut self, refusal: &Refusal) {
        let status = ApiError::from(refusal.clone()).status.as_u16();
        self.close(status, Some((refusal.class.as_str(), &refusal.message)));
    }

    fn close(&mut self, status: u16, failure: Option<(&'static str, &str)>) {
        let now = SystemTime::now();
        let rest = self.rest(now).filter(|_| self.span.is_some() && status == 200);
        let missed = rest.is_some_and(|(ms, tokens)| self.slo.misses_tpot(ms, tokens));
        self.check_slo(missed, now);
        let Some(mut span) = self.span.take() else { return };
        if let Some((ms, tokens)) = rest {
            self.metrics.tpot_seconds.observe(ms / 1e3 / tokens as f64, &self.trace);
        }
        self.trace.decide(self.slo_missed || status >= 500);
        if let FirstToken::Written { at: first } = self.first {
            let tokens = self.usage.completion_tokens;
            let attributes = [(names::tandem::TOKENS, tokens.into())];
            self.trace.stage(names::stage::STREAM, first.min(now)..now, attributes);
        }
        span.attribute(names::HTTP_RESPONSE_STATUS_CODE, status);
        if let Some(contents) = &self.contents {
            span.attribute(names::GEN_AI_INPUT_MESSAGES, contents.input_messages());
            span.attribute(names::GEN_AI_OUTPUT_MESSAGES, contents.output_messages());
        }
        // A failure before the first token has no usage to report.
        if status == 200 || self.usage.completion_tokens != 0 {
            span.attribute(names::GEN_AI_USAGE_OUTPUT_TOKENS, self.usage.completion_tokens);
            span.attribute(names::GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS, self.usage.cached_tokens);
            span.attribute(names::GEN_AI_RESPONSE_FINISH_REASONS, self.finish_reasons.join(","));
        }
        match failure {
            // The client's own mistakes are no errors of the server.
            Some((class, message)) if status >= 500 => span.fail(class, message.to_owned()),
            Some((class, _)) => span.attribute(names::ERROR_TYPE, class),
            None if status == CLIENT_CLOSED => {
                span.event(names::event::CLIENT_GONE, now, []);
                self.metrics.choice_ended("abort");
            }
            None => {}
        }
        span.end_at(now);
        if let Some((class, cause)) = failure.filter(|_| status >= 500) {
            warn!(trace_id = %self.trace.trace_id(), status, class, cause, "request failed");
        }
        debug!(
            trace_id = %self.trace.trace_id(),
            status,
            prompt_tokens = self.usage.prompt_tokens,
            completion_tokens = self.usage.completion_tokens,
            cause = failure.map(|(_, message)| message),
            "request closed"
        );
        self.metrics.answered(self.endpoint.path(), status);
        self.metrics.prompt_tokens.inc_by(self.usage.prompt_tokens);
        self.metrics.cached_tokens.inc_by(self.usage.cached_tokens);
        self.metrics.generation_tokens.inc_by(self.usage.completion_tokens);
        self.metrics
            .request_seconds
            .observe_duration(self.arrival.monotonic.elapsed(), &self.trace);
        self.metrics.running.dec();
        self.permit = None;
    }
}

impl Drop for RequestRecorder {
    fn drop(&mut self) {
        self.close(CLIENT_CLOSED, None);
    }
}
