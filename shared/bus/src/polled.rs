//! Reads a consumer in bursts: many messages at a time cost much less than as many times one, on
//! both sides.

use std::pin::Pin;
use std::task::{self, Poll};
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{Consumer, pull};
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use tokio::time::Sleep;

/// Messages of one burst.
const BURST_MESSAGES: usize = 512;

/// A consumer that is asked again and again for what there is.
pub(crate) struct Polled {
    consumer: Consumer<pull::Config>,
    pace: Duration,
    bytes: usize,
    state: State,
}

enum State {
    Resting(Pin<Box<Sleep>>),
    Asking(BoxFuture<'static, Result<pull::Batch, String>>),
    Reading(Box<pull::Batch>, usize),
}

impl Polled {
    /// Asks at once, then `pace` after each burst that brought all there was.
    pub(crate) fn new(consumer: Consumer<pull::Config>, pace: Duration, bytes: usize) -> Self {
        let state = State::Asking(ask(&consumer, bytes));
        Self { consumer, pace, bytes, state }
    }

    /// The next message, or why there are no more.
    pub(crate) fn poll_next(
        &mut self,
        cx: &mut task::Context<'_>,
    ) -> Poll<Result<jetstream::Message, String>> {
        loop {
            match &mut self.state {
                State::Resting(sleep) => match sleep.poll_unpin(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(()) => self.state = State::Asking(ask(&self.consumer, self.bytes)),
                },
                State::Asking(asking) => match asking.poll_unpin(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(batch)) => self.state = State::Reading(Box::new(batch), 0),
                    Poll::Ready(Err(why)) => return Poll::Ready(Err(why)),
                },
                State::Reading(batch, count) => match batch.poll_next_unpin(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Some(Ok(message))) => {
                        *count += 1;
                        return Poll::Ready(Ok(message));
                    }
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error.to_string())),
                    Poll::Ready(None) if BURST_MESSAGES / 2 < *count => {
                        self.state = State::Asking(ask(&self.consumer, self.bytes));
                    }
                    Poll::Ready(None) => {
                        self.state = State::Resting(Box::pin(tokio::time::sleep(self.pace)));
                    }
                },
            }
        }
    }
}

fn ask(
    consumer: &Consumer<pull::Config>,
    bytes: usize,
) -> BoxFuture<'static, Result<pull::Batch, String>> {
    let consumer = consumer.clone();
    let asking = async move {
        let fetch = consumer.fetch().max_messages(BURST_MESSAGES).max_bytes(bytes);
        fetch.messages().await.map_err(|error| error.to_string())
    };
    asking.boxed()
}
