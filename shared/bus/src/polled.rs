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

use crate::connect::JETSTREAM_TIMEOUT;

/// Messages of one burst.
const BURST_MESSAGES: usize = 512;

/// What one question brings.
struct Burst {
    batch: pull::Batch,
    count: usize,
    /// The answer may be lost without the connection.
    until: Pin<Box<Sleep>>,
}

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
    Reading(Box<Burst>),
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
                    Poll::Ready(Ok(batch)) => {
                        let until = Box::pin(tokio::time::sleep(JETSTREAM_TIMEOUT));
                        self.state = State::Reading(Box::new(Burst { batch, count: 0, until }));
                    }
                    Poll::Ready(Err(why)) => return Poll::Ready(Err(why)),
                },
                State::Reading(burst) => match burst.batch.poll_next_unpin(cx) {
                    Poll::Pending => {
                        let late = burst.until.poll_unpin(cx);
                        return late.map(|()| Err("no answer in time".to_owned()));
                    }
                    Poll::Ready(Some(Ok(message))) => {
                        burst.count += 1;
                        return Poll::Ready(Ok(message));
                    }
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error.to_string())),
                    Poll::Ready(None) if BURST_MESSAGES / 2 < burst.count => {
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
        match tokio::time::timeout(JETSTREAM_TIMEOUT, fetch.messages()).await {
            Ok(batch) => batch.map_err(|error| error.to_string()),
            Err(_) => Err("no room for a question".to_owned()),
        }
    };
    asking.boxed()
}
