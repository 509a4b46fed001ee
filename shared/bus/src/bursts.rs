//! Reads a consumer in bursts: one request for many messages costs both sides much less than many
//! requests for one.

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{Consumer, pull};
use futures::StreamExt as _;
use futures::stream::{BoxStream, try_unfold};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::connect::JETSTREAM_TIMEOUT;

/// Messages of one burst.
const BURST_MESSAGES: usize = 512;

/// The response to one request.
struct Burst {
    batch: pull::Batch,
    count: usize,
    /// The response may be lost with the connection.
    deadline: Instant,
}

/// A consumer that is asked again and again for its waiting messages.
struct Bursts {
    consumer: Consumer<pull::Config>,
    pace: Duration,
    bytes: usize,
    current: Option<Burst>,
    /// True if the last burst brought all that waited.
    drained: bool,
}

/// Streams the messages of `consumer`: asks at once, then `pace` after each burst that brought all
/// that waited. The stream ends after an error.
pub(crate) fn bursts(
    consumer: Consumer<pull::Config>,
    pace: Duration,
    bytes: usize,
) -> BoxStream<'static, Result<jetstream::Message, String>> {
    let bursts = Bursts { consumer, pace, bytes, current: None, drained: false };
    let messages = try_unfold(bursts, |mut bursts| async move {
        let message = bursts.next().await?;
        Ok(Some((message, bursts)))
    });
    messages.boxed()
}

impl Bursts {
    async fn next(&mut self) -> Result<jetstream::Message, String> {
        loop {
            let Some(burst) = &mut self.current else {
                if self.drained {
                    sleep(self.pace).await;
                }
                let batch = request(self.consumer.clone(), self.bytes).await?;
                let deadline = Instant::now() + JETSTREAM_TIMEOUT;
                self.current = Some(Burst { batch, count: 0, deadline });
                continue;
            };
            match timeout_at(burst.deadline, burst.batch.next()).await {
                Ok(Some(Ok(message))) => {
                    burst.count += 1;
                    return Ok(message);
                }
                Ok(Some(Err(error))) => return Err(error.to_string()),
                Ok(None) => {
                    self.drained = burst.count <= BURST_MESSAGES / 2;
                    self.current = None;
                }
                Err(_) => return Err("consumer fetch timed out: no response".to_owned()),
            }
        }
    }
}

async fn request(consumer: Consumer<pull::Config>, bytes: usize) -> Result<pull::Batch, String> {
    let fetch = consumer.fetch().max_messages(BURST_MESSAGES).max_bytes(bytes);
    match timeout(JETSTREAM_TIMEOUT, fetch.messages()).await {
        Ok(batch) => batch.map_err(|error| error.to_string()),
        Err(_) => Err("consumer fetch timed out: the client's command queue is full".to_owned()),
    }
}
