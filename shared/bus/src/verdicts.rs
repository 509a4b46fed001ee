//! Trace verdicts: from the gateway, where requests end, to all services.

use async_nats::{HeaderMap, Subscriber};
use futures::StreamExt as _;
use protocol::trace::VERDICTS_MAX;
use protocol::{Subject, TraceVerdicts};

use crate::connect::Bus;
use crate::counters::DropReason;
use crate::messages::{PublishError, SubscribeError, publish, subscribe};

/// Longest message accepted: [`VERDICTS_MAX`] ids of either kind, each at most 35 bytes.
const BYTES_MAX: usize = 2 * 35 * VERDICTS_MAX + 64;

impl Bus {
    /// Publishes trace verdicts to all services, at most once.
    pub async fn send_verdicts(&self, verdicts: &TraceVerdicts) -> Result<(), PublishError> {
        let subject = Subject::Verdicts.to_string();
        let chunks = verdicts.keep.len().max(verdicts.forget.len()).div_ceil(VERDICTS_MAX);
        let part = |ids: &[[u8; 16]], chunk: usize| -> Vec<[u8; 16]> {
            ids.chunks(VERDICTS_MAX).nth(chunk).unwrap_or_default().to_vec()
        };
        for chunk in 0..chunks {
            let keep = part(&verdicts.keep, chunk);
            let message = TraceVerdicts { keep, forget: part(&verdicts.forget, chunk) };
            let payload = protocol::encode(&message)
                .map_err(|source| PublishError::Encode { subject: subject.clone(), source })?;
            let client = &self.inner.control.client;
            publish(client, subject.clone(), HeaderMap::new(), payload).await?;
        }
        Ok(())
    }

    /// Subscribes to the trace verdicts of gateways.
    pub async fn verdicts(&self) -> Result<VerdictSubscription, SubscribeError> {
        let subject = Subject::Verdicts.to_string();
        let messages = subscribe(&self.inner.control.client, &subject, None).await?;
        Ok(VerdictSubscription { bus: self.clone(), messages })
    }
}

/// A subscription to trace verdicts.
pub struct VerdictSubscription {
    bus: Bus,
    messages: Subscriber,
}

impl VerdictSubscription {
    /// Returns the next verdicts; `None` once the bus is closed. Safe to abandon.
    pub async fn next(&mut self) -> Option<TraceVerdicts> {
        loop {
            let message = self.messages.next().await?;
            match protocol::decode(&message.payload, BYTES_MAX) {
                Ok(verdicts) => return Some(verdicts),
                Err(error) => {
                    let (reason, cause) = (DropReason::of(&error), error.to_string());
                    let counters = &self.bus.inner.counters;
                    counters.drop_message(reason, message.subject.as_str(), &cause);
                }
            }
        }
    }
}
