//! Token batches to a gateway: core NATS, numbered by the sender, repaired on request.

use async_nats::{HeaderMap, Subscriber};
use futures::StreamExt as _;
use protocol::token::{BATCH_EVENTS_MAX, TokenBatchRef};
use protocol::{Event, GatewayId, Subject, TokenBatch, WorkerId};

use crate::connect::Bus;
use crate::counters::DropReason;
use crate::messages::{PublishError, SubscribeError, publish, subscribe};

/// A batch above this size is split, so that one gateway's burst does not delay the next message.
const SPLIT_BYTES: usize = 1 << 20;
/// Longest batch accepted: one event with the log-probabilities of a long prompt.
const BATCH_BYTES_MAX: usize = 8 << 20;

impl Bus {
    /// Sends a step's events to a gateway, in several messages when they are long.
    ///
    /// At most once: a gateway detects a gap by the indices and asks the worker.
    pub async fn send_tokens(
        &self,
        gateway: &GatewayId,
        batch: &TokenBatch,
    ) -> Result<(), PublishError> {
        let subject = Subject::Tokens(gateway).to_string();
        let client = &self.inner.control.client;
        for payload in payloads(&batch.worker, &batch.events, &subject)? {
            publish(client, subject.clone(), HeaderMap::new(), payload).await?;
        }
        Ok(())
    }

    /// Subscribes to the events for this gateway. When it returns, the server has the subscription.
    pub async fn tokens(&self, gateway: &GatewayId) -> Result<Tokens, SubscribeError> {
        let subject = Subject::Tokens(gateway).to_string();
        let messages = subscribe(&self.inner.control.client, &subject, None).await?;
        self.synced().await?;
        Ok(Tokens { bus: self.clone(), messages })
    }
}

/// Encodes `events` in order; halves batches that are too long until they fit or have one event.
fn payloads(
    worker: &WorkerId,
    events: &[Event],
    subject: &str,
) -> Result<Vec<Vec<u8>>, PublishError> {
    let mut sent = Vec::new();
    let mut waiting = vec![events];
    while let Some(events) = waiting.pop() {
        let (first, second) = events.split_at(events.len() / 2);
        if events.len() > BATCH_EVENTS_MAX {
            waiting.extend([second, first]);
            continue;
        }
        let batch = TokenBatchRef { worker, events };
        let payload = protocol::encode(&batch)
            .map_err(|source| PublishError::Encode { subject: subject.to_owned(), source })?;
        if payload.len() <= SPLIT_BYTES || events.len() <= 1 {
            sent.push(payload);
        } else {
            waiting.extend([second, first]);
        }
    }
    Ok(sent)
}

/// A gateway's subscription to token batches.
pub struct Tokens {
    bus: Bus,
    messages: Subscriber,
}

impl Tokens {
    /// Returns the next well-formed batch; `None` once the bus is closed. Safe to abandon.
    pub async fn next(&mut self) -> Option<TokenBatch> {
        loop {
            let message = self.messages.next().await?;
            let counters = &self.bus.inner.counters;
            match protocol::decode::<TokenBatch>(&message.payload, BATCH_BYTES_MAX) {
                Ok(batch) if batch.events.len() <= BATCH_EVENTS_MAX => return Some(batch),
                Ok(batch) => counters.drop_message(
                    DropReason::TooLong,
                    message.subject.as_str(),
                    &format!("{} events, expected at most {BATCH_EVENTS_MAX}", batch.events.len()),
                ),
                Err(error) => counters.drop_message(
                    DropReason::of(&error),
                    message.subject.as_str(),
                    &error.to_string(),
                ),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{Attempt, ErrorClass, Failure, Refusal, RequestId, RequestKey};

    fn events(count: u128, bytes: usize) -> Vec<Event> {
        let failures = (0..count).map(|request| Failure {
            key: RequestKey { request: RequestId(request), attempt: Attempt(0) },
            refusal: Refusal::new(ErrorClass::Retry, "x".repeat(bytes)),
        });
        failures.map(Event::Failed).collect()
    }

    fn split(events: &[Event]) -> Vec<Vec<Event>> {
        let worker = "decode-1".parse().unwrap();
        let parts = payloads(&worker, events, "s").unwrap().into_iter().map(|payload| {
            assert!(payload.len() <= SPLIT_BYTES);
            protocol::decode::<TokenBatch>(&payload, BATCH_BYTES_MAX).unwrap().events
        });
        parts.collect()
    }

    #[test]
    fn a_long_batch_is_split_in_order() {
        let all = events(100, 40_000);
        let parts = split(&all);
        assert!(parts.len() >= 4);
        assert_eq!(parts.concat(), all);
    }

    #[test]
    fn many_short_events_are_split_by_count() {
        let all = events(BATCH_EVENTS_MAX as u128 + 1, 0);
        let parts = split(&all);
        assert_eq!(parts.len(), 2);
        assert_eq!(parts.concat(), all);
    }

    #[test]
    fn a_short_batch_stays_whole() {
        assert_eq!(split(&events(3, 10)).len(), 1);
    }
}
