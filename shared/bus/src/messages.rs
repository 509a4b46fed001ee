//! Messages and subscriptions of core NATS, each with a bound on its wait.

use std::time::Duration;

use async_nats::{Client, HeaderMap, Subscriber};
use futures::StreamExt as _;
use protocol::WireError;

/// Longest wait for room in the queue to the socket.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for the round trip after a subscription.
const SYNC_TIMEOUT: Duration = Duration::from_secs(5);

/// A message that could not be sent.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum PublishError {
    /// The message cannot be encoded.
    #[error("message to {subject}: {source}")]
    Encode { subject: String, source: WireError },
    /// The queue to the socket is full: NATS is disconnected or too slow.
    #[error("no room to send to {subject} within {timeout_ms} ms")]
    Timeout { subject: String, timeout_ms: u64 },
    /// The message is too long for the server, or the connection is closed for good.
    #[error("publish {bytes} bytes to {subject}: {source}")]
    Failed { subject: String, bytes: usize, source: async_nats::PublishError },
}

/// A subscription that failed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum SubscribeError {
    /// The subscription was refused.
    #[error("subscribe to {subject}: {source}")]
    Failed { subject: String, source: async_nats::SubscribeError },
    /// The server did not answer a round trip after the subscription.
    #[error("no round trip to the server within {timeout_ms} ms")]
    NotSynced { timeout_ms: u64 },
}

pub(crate) async fn publish(
    client: &Client,
    subject: String,
    headers: HeaderMap,
    payload: Vec<u8>,
) -> Result<(), PublishError> {
    let bytes = payload.len();
    let publishing = async {
        if headers.is_empty() {
            client.publish(subject.clone(), payload.into()).await
        } else {
            client.publish_with_headers(subject.clone(), headers, payload.into()).await
        }
    };
    match tokio::time::timeout(PUBLISH_TIMEOUT, publishing).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(source)) => Err(PublishError::Failed { subject, bytes, source }),
        Err(_) => {
            let timeout_ms = PUBLISH_TIMEOUT.as_millis() as u64;
            Err(PublishError::Timeout { subject, timeout_ms })
        }
    }
}

/// Waits until the server has handled everything sent before on this connection.
pub(crate) async fn round_trip(client: &Client) -> Result<(), SubscribeError> {
    let inbox = client.new_inbox();
    let round_trip = async {
        let mut echo = subscribe(client, &inbox, None).await?;
        let sent = publish(client, inbox.clone(), HeaderMap::new(), Vec::new());
        let _lost_shows_as_timeout = sent.await;
        echo.next().await;
        Ok(())
    };
    tokio::time::timeout(SYNC_TIMEOUT, round_trip)
        .await
        .unwrap_or(Err(SubscribeError::NotSynced { timeout_ms: SYNC_TIMEOUT.as_millis() as u64 }))
}

pub(crate) async fn subscribe(
    client: &Client,
    subject: &str,
    queue: Option<&str>,
) -> Result<Subscriber, SubscribeError> {
    let subscribed = match queue {
        Some(queue) => client.queue_subscribe(subject.to_owned(), queue.to_owned()).await,
        None => client.subscribe(subject.to_owned()).await,
    };
    subscribed.map_err(|source| SubscribeError::Failed { subject: subject.to_owned(), source })
}
