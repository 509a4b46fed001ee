//! What every handler shares.

use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use chassis::StopToken;
use chassis::settings::LinksSettings;
use chassis::telemetry::Tracer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::api::params::Bounds;
use crate::dispatch::backend::Backend;
use crate::error::ApiError;
use crate::observe::metrics::{Exposition, HttpMetrics};
use crate::observe::slo::Judge;
use crate::page::{Page, PageParts};
use crate::text::model::Text;
use axum::http::StatusCode;

/// What a gateway takes on.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a request may take.
    pub request_timeout: Duration,
    /// How long its body may take to arrive.
    pub body_timeout: Duration,
    /// Requests in flight.
    pub max_inflight: usize,
    /// Bytes of a request's body.
    pub max_body_bytes: usize,
    /// Choices of a request: `n` times its prompts.
    pub max_choices: u32,
}

/// What an [`App`] is made of.
pub struct AppParts {
    /// The model as text sees it.
    pub text: Arc<Text>,
    /// Runs generations.
    pub backend: Arc<dyn Backend>,
    /// Counts and times.
    pub http_metrics: Arc<HttpMetrics>,
    /// What `/metrics` shows.
    pub metrics: Exposition,
    /// Traces requests.
    pub tracer: Tracer,
    /// Which of them are worth it.
    pub judge: Judge,
    /// What is taken on.
    pub limits: Limits,
    /// The links on the page at `/`.
    pub links: LinksSettings,
    /// Ends the streams of the page.
    pub stop: StopToken,
}

/// The state behind the HTTP endpoints.
pub struct App {
    pub(crate) text: Arc<Text>,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) http_metrics: Arc<HttpMetrics>,
    pub(crate) metrics: Exposition,
    pub(crate) tracer: Tracer,
    pub(crate) judge: Judge,
    pub(crate) limits: Limits,
    pub(crate) page: Arc<Page>,
    places: Arc<Semaphore>,
    /// Long bodies being read at the same time: as many as there are cores.
    desks: Arc<Semaphore>,
}

impl App {
    /// Puts the state together.
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
            judge: parts.judge,
            places: Arc::new(Semaphore::new(parts.limits.max_inflight)),
            desks: Arc::new(Semaphore::new(
                std::thread::available_parallelism().map_or(1, NonZero::get),
            )),
            limits: parts.limits,
        }
    }

    /// Longest sequence that can be generated now.
    pub(crate) fn max_model_len(&self) -> u32 {
        self.backend.context_tokens(self.text.context_tokens)
    }

    pub(crate) fn bounds(&self) -> Bounds {
        Bounds {
            choices_max: self.limits.max_choices,
            vocabulary: u32::try_from(self.text.vocabulary.size()).unwrap_or(u32::MAX),
        }
    }

    /// A place among the requests in flight, or 429 at once: waiting here would only hide the load.
    pub(crate) fn place(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            let max = self.limits.max_inflight;
            let message = format!("{max} requests are in flight, no more are taken");
            ApiError::new(StatusCode::TOO_MANY_REQUESTS, message)
        })
    }

    /// Runs a computation that takes long beside the runtime, whose threads carry the tokens of
    /// other requests.
    pub(crate) async fn aside<T: Send + 'static>(
        self: &Arc<Self>,
        compute: impl FnOnce(&Self) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let desk = Arc::clone(&self.desks).acquire_owned();
        let desk = tokio::time::timeout(self.limits.request_timeout, desk).await.map_err(|_| {
            let message = "the deadline passed before the request was read";
            ApiError::new(StatusCode::GATEWAY_TIMEOUT, message)
        })?;
        let app = Arc::clone(self);
        let computing = tokio::task::spawn_blocking(move || {
            let _desk = desk;
            compute(&app)
        });
        computing.await.map_err(|error| {
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("read the request: {error}"))
        })?
    }

    /// 503 with the reason, unless a generation would succeed now.
    pub(crate) fn check_ready(&self) -> Result<(), ApiError> {
        let unavailable = |reason| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, reason);
        self.backend.readiness().map_err(unavailable)
    }

    /// 404 unless a client that asks for `model` means ours.
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
