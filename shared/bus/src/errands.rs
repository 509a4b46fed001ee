//! Small things done after the one who needed them is gone: consumers deleted, damage reported.

use async_nats::jetstream;
use async_nats::{Client, Request};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::connect::JETSTREAM_TIMEOUT;

/// Errands that may wait. One that finds no room is not run: a consumer then disappears by its
/// inactivity, damage is reported by the next reader.
const ERRANDS_MAX: usize = 1024;

pub(crate) enum Errand {
    DeleteConsumer { jetstream: jetstream::Context, stream: String, consumer: String },
    Tell { client: Client, subject: String, message: Vec<u8> },
}

/// The task that runs errands; it ends with the last handle.
pub(crate) struct Errands {
    queue: mpsc::Sender<Errand>,
    _task: JoinSet<()>,
}

impl Errands {
    pub(crate) fn start() -> Self {
        let (queue, mut waiting) = mpsc::channel(ERRANDS_MAX);
        let mut task = JoinSet::new();
        task.spawn(async move {
            while let Some(errand) = waiting.recv().await {
                run(errand).await;
            }
        });
        Self { queue, _task: task }
    }

    pub(crate) fn queue(&self) -> mpsc::Sender<Errand> {
        self.queue.clone()
    }
}

async fn run(errand: Errand) {
    match errand {
        Errand::DeleteConsumer { jetstream, stream, consumer } => {
            let deleting = jetstream.delete_consumer_from_stream(&consumer, &stream);
            if let Err(error) = deleting.await {
                tracing::debug!(stream, consumer, %error, "consumer left to its inactivity");
            }
        }
        Errand::Tell { client, subject, message } => {
            let request = Request::new().payload(message.into()).timeout(Some(JETSTREAM_TIMEOUT));
            if let Err(error) = client.send_request(subject.clone(), request).await {
                tracing::warn!(subject, %error, "nobody took the report");
            }
        }
    }
}
