//! The state that the handlers share.

use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use chassis::StopToken;
use chassis::settings::LinksSettings;
use chassis::telemetry::Tracer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::api::params::ParseContext;
use crate::dispatch::backend::Backend;
use crate::error::ApiError;
use crate::observe::SloPolicy;
use crate::observe::metrics::{Exposition, HttpMetrics};
use crate::page::{Page, PageParts};
use crate::text::TextModel;

/// The bounds on requests that this gateway accepts.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest time from a request's arrival to its end.
    pub request_timeout: Duration,
    /// Longest time until a request's body has arrived.
    pub body_timeout: Duration,
    /// Most requests in flight.
    pub max_inflight: usize,
    /// Longest body of a request, in bytes.
    pub max_body_bytes: usize,
    /// Most choices of a request: `n` times its prompts.
    pub max_choices: u32,
}

/// The parts of an [`App`].
pub struct AppParts {
    /// The text side of the model.
    pub text: Arc<TextModel>,
    /// The backend that runs generations.
    pub backend: Arc<dyn Backend>,
    /// The metrics of HTTP requests.
    pub http_metrics: Arc<HttpMetrics>,
    /// The content of `/metrics`.
    pub metrics: Exposition,
    /// The tracer of requests.
    pub tracer: Tracer,
    /// The limits behind trace verdicts.
    pub slo: SloPolicy,
    /// True if spans carry prompts and outputs.
    pub record_contents: bool,
    /// The bounds on requests.
    pub limits: Limits,
    /// The links on the page at `/`.
    pub links: LinksSettings,
    /// Ends the streams of the page.
    pub stop: StopToken,
}

/// The state behind the HTTP endpoints.
pub struct App {
    pub(crate) text: Arc<TextModel>,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) http_metrics: Arc<HttpMetrics>,
    pub(crate) metrics: Exposition,
    pub(crate) tracer: Tracer,
    pub(crate) slo: SloPolicy,
    pub(crate) record_contents: bool,
    pub(crate) limits: Limits,
    pub(crate) page: Arc<Page>,
    inflight_permits: Arc<Semaphore>,
    /// One permit per core: long bodies are parsed on threads of their own.
    blocking_permits: Arc<Semaphore>,
}

impl App {
    /// Returns the state made of `parts`.
    pub fn new(parts: AppParts) -> Self {
        let page = Arc::new(Page::new(PageParts {
            text: Arc::clone(&parts.text),
            backend: Arc::clone(&parts.backend),
            http_metrics: Arc::clone(&parts.http_metrics),
            max_inflight: parts.limits.max_inflight,
            links: parts.links,
            stop: parts.stop,
        }));
        Self {
            page,
            text: parts.text,
            backend: parts.backend,
            http_metrics: parts.http_metrics,
            metrics: parts.metrics,
            tracer: parts.tracer,
            slo: parts.slo,
            record_contents: parts.record_contents,
            inflight_permits: Arc::new(Semaphore::new(parts.limits.max_inflight)),
            blocking_permits: Arc::new(Semaphore::new(
                std::thread::available_parallelism().map_or(1, NonZero::get),
            )),
            limits: parts.limits,
        }
    }

    /// Returns the longest sequence that can be generated now, in tokens.
    pub(crate) fn max_model_len(&self) -> u32 {
        self.backend.context_tokens(self.text.context_tokens)
    }

    /// Returns the limits and defaults that parsing needs.
    pub(crate) fn parse_context(&self) -> ParseContext<'_> {
        ParseContext {
            choices_max: self.limits.max_choices,
            sampling: &self.text.sampling,
            vocabulary: u32::try_from(self.text.vocabulary.size()).unwrap_or(u32::MAX),
        }
    }

    /// Takes an in-flight permit, or returns 429 at once: waiting here would only hide the load.
    pub(crate) fn inflight_permit(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.inflight_permits).try_acquire_owned().map_err(|_| {
            let max = self.limits.max_inflight;
            let message = format!("{max} requests are in flight, no more are taken");
            ApiError::new(StatusCode::TOO_MANY_REQUESTS, message)
        })
    }

    /// Runs a long computation on a blocking thread: the runtime's threads carry the tokens of other
    /// requests.
    pub(crate) async fn run_blocking<T: Send + 'static>(
        self: &Arc<Self>,
        compute: impl FnOnce(&Self) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let permit = Arc::clone(&self.blocking_permits).acquire_owned();
        let permit =
            tokio::time::timeout(self.limits.request_timeout, permit).await.map_err(|_| {
                let message = "the deadline passed before the request was read";
                ApiError::new(StatusCode::GATEWAY_TIMEOUT, message)
            })?;
        let app = Arc::clone(self);
        let computing = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            compute(&app)
        });
        computing.await.map_err(|error| {
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("read the request: {error}"))
        })?
    }

    /// Returns 503 with the reason if a generation would fail now.
    pub(crate) fn check_ready(&self) -> Result<(), ApiError> {
        let readiness = self.backend.readiness();
        readiness.map_err(|reason| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, reason))
    }

    /// Returns 404 if `model` is not the name of the served model.
    pub(crate) fn check_model(&self, model: Option<&str>) -> Result<(), ApiError> {
        match model {
            Some(model) if !self.text.answers_to(model) => {
                let message = format!("the model {model:?} does not exist");
                let mut error = ApiError::new(StatusCode::NOT_FOUND, message);
                error.param = Some("model".to_owned());
                Err(error)
            }
            _ => Ok(()),
        }
    }
}
