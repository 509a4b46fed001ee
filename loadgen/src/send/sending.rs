//! One request, from its intended time to its end.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use chassis::Tracer;
use chassis::telemetry::{Caller, OpenSpan, SpanKind, names};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout_at};

use crate::send::client::{Call, Client};
use crate::send::clock::Clock;
use crate::send::due::Job;
use crate::send::identity::{Identity, RequestIds};
use crate::send::live::Live;
use crate::send::record::{Failure, FailureClass, RequestRecord};
use crate::send::{OnFull, SendOptions};

/// Attributes of a request's span.
mod attribute {
    pub(super) const RUN_ID: &str = "loadgen.run_id";
    pub(super) const INDEX: &str = "loadgen.index";
    pub(super) const INTENDED_MS: &str = "loadgen.intended_ms";
    pub(super) const LAG_MS: &str = "loadgen.lag_ms";
    pub(super) const QUEUE_WAIT_MS: &str = "loadgen.queue_wait_ms";
    pub(super) const TTFT_MS: &str = "loadgen.ttft_ms";
}

/// Everything that the requests of a run share.
pub(crate) struct Sender {
    pub(crate) client: Client,
    pub(crate) options: SendOptions,
    pub(crate) identity: Identity,
    /// Tracer for the spans of requests, if they are recorded.
    pub(crate) tracer: Option<Tracer>,
    pub(crate) clock: Clock,
    pub(crate) live: Arc<Live>,
    pub(crate) slots: Option<Arc<Semaphore>>,
    /// True once everything in flight must end.
    pub(crate) cancelled: watch::Receiver<bool>,
}

impl Sender {
    /// Sends a request that is due.
    pub(crate) async fn request(self: Arc<Self>, job: Job) -> RequestRecord {
        let issued_ns = self.clock.now_ns();
        // The timeout counts from the intended time, even if the generator was late.
        let late = Duration::from_nanos((issued_ns - job.intended_ns).max(0).unsigned_abs());
        let deadline = Instant::now() + self.options.timeout.saturating_sub(late);
        let mut ids = self.identity.of(job.index);
        let span = self.span(&mut ids);
        let traceparent = ids.traceparent.clone();
        let mut record = RequestRecord {
            intended_ns: job.intended_ns,
            ..RequestRecord::new(job.index, issued_ns, ids)
        };
        self.live.issued(record.lag_ns());
        let endpoint = self.options.endpoint;
        let call = job.body.map(|body| Call { endpoint, body, traceparent });
        let mut cancelled = self.cancelled.clone();
        let sent = timeout_at(deadline, self.send(call, &mut record));
        let failure = tokio::select! {
            biased;
            sent = sent => match sent {
                Ok(Ok(())) => None,
                Ok(Err(failure)) => Some(failure),
                Err(_) => Some(Failure {
                    class: FailureClass::Timeout,
                    message: format!("not over {:?} after it was due", self.options.timeout),
                }),
            },
            _ = cancelled.wait_for(|cancelled| *cancelled) => Some(Failure {
                class: FailureClass::Cancelled,
                message: "the run was stopped".to_owned(),
            }),
        };
        record.failure = failure;
        record.finished_ns = self.clock.now_ns();
        record.reply.tokens.settle();
        self.live.finished(&record);
        if let Some(span) = span {
            self.end_span(span, &record);
        }
        record
    }

    async fn send(
        &self,
        call: Result<Call, String>,
        record: &mut RequestRecord,
    ) -> Result<(), Failure> {
        let call = call.map_err(|message| Failure { class: FailureClass::Prompt, message })?;
        let _slot = self.slot().await?;
        self.client.exchange(call, self.clock, &self.live, record).await
    }

    /// Acquires a slot among the requests in flight, if their number is limited.
    async fn slot(&self) -> Result<Option<OwnedSemaphorePermit>, Failure> {
        let Some(slots) = &self.slots else { return Ok(None) };
        if let Ok(slot) = slots.clone().try_acquire_owned() {
            return Ok(Some(slot));
        }
        let dropped = |message| Failure { class: FailureClass::Dropped, message };
        match self.options.on_full {
            OnFull::Queue => {
                let slot = slots.clone().acquire_owned().await;
                slot.map(Some).map_err(|e| dropped(e.to_string()))
            }
            OnFull::Drop | OnFull::Abort => {
                Err(dropped("the limit of requests in flight was reached".to_owned()))
            }
        }
    }

    /// Opens the span of the request and puts its context into `ids`, if spans are recorded.
    fn span(&self, ids: &mut RequestIds) -> Option<OpenSpan> {
        let tracer = self.tracer.as_ref()?;
        let name = format!("POST {}", self.options.endpoint.path());
        let span = tracer.root_span(name, SpanKind::Client, Caller::default(), SystemTime::now());
        let trace = span.context();
        (ids.trace_id, ids.traceparent) = (trace.trace_id().to_string(), trace.traceparent());
        Some(span)
    }

    fn end_span(&self, mut span: OpenSpan, record: &RequestRecord) {
        let ms = |ns: i64| ns as f64 / 1e6;
        span.attribute(names::HTTP_REQUEST_METHOD, "POST");
        span.attribute(names::URL_PATH, self.options.endpoint.path());
        span.attribute(attribute::RUN_ID, self.client.run_id().to_owned());
        span.attribute(attribute::INDEX, record.index);
        span.attribute(attribute::INTENDED_MS, ms(record.intended_ns));
        span.attribute(attribute::LAG_MS, ms(record.lag_ns()));
        span.attribute(names::tandem::REQUEST_ID, record.request_id.clone());
        if let Some(ns) = record.queue_wait_ns() {
            span.attribute(attribute::QUEUE_WAIT_MS, ms(ns));
        }
        if let Some(ns) = record.ttft_ns(record.intended_ns) {
            span.attribute(attribute::TTFT_MS, ms(ns));
        }
        if let Some(usage) = record.reply.usage {
            span.attribute(names::GEN_AI_USAGE_INPUT_TOKENS, usage.prompt_tokens);
            span.attribute(names::GEN_AI_USAGE_OUTPUT_TOKENS, usage.completion_tokens);
        }
        if let Some(failure) = &record.failure {
            span.fail(failure.class.name(), failure.message.clone());
        }
        span.end_at(SystemTime::now());
    }
}
