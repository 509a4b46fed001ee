//! Work deferred to a task of its own: consumers deleted, damage reported.

use std::time::Duration;

use async_nats::jetstream;
use async_nats::{Client, Request};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Most work that may wait. Work that finds no room is not done: a consumer then disappears by its
/// inactivity, and the next reader reports the damage.
const DEFERRED_MAX: usize = 1024;
/// Longest wait for the kvstore's reply to a report.
const REPORT_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) enum Deferred {
    DeleteConsumer { jetstream: jetstream::Context, stream: String, consumer: String },
    Report { client: Client, subject: String, message: Vec<u8> },
}

/// The task that does deferred work; it ends with the last handle.
pub(crate) struct DeferredWork {
    queue: mpsc::Sender<Deferred>,
    _task: JoinSet<()>,
}

impl DeferredWork {
    pub(crate) fn start() -> Self {
        let (queue, mut waiting) = mpsc::channel(DEFERRED_MAX);
        let mut task = JoinSet::new();
        task.spawn(async move {
            while let Some(work) = waiting.recv().await {
                run(work).await;
            }
        });
        Self { queue, _task: task }
    }

    pub(crate) fn queue(&self) -> mpsc::Sender<Deferred> {
        self.queue.clone()
    }
}

async fn run(work: Deferred) {
    match work {
        Deferred::DeleteConsumer { jetstream, stream, consumer } => {
            let deleting = jetstream.delete_consumer_from_stream(&consumer, &stream);
            if let Err(error) = deleting.await {
                tracing::debug!(stream, consumer, %error, "failed to delete a consumer, leaving it to its inactivity");
            }
        }
        Deferred::Report { client, subject, message } => {
            let request = Request::new().payload(message.into()).timeout(Some(REPORT_TIMEOUT));
            if let Err(error) = client.send_request(subject.clone(), request).await {
                tracing::warn!(subject, %error, "failed to report a damaged block");
            }
        }
    }
}
