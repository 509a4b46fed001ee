//! Received requests: bounded, decoded, and replied to once.

use std::marker::PhantomData;

use async_nats::{Client, Message, Subscriber};
use futures::StreamExt as _;
use protocol::subject::{Request, StoreRequest, WorkerRequest};
use protocol::{Subject, WorkerId};

use crate::connect::{Bus, Link};
use crate::context::Context;
use crate::counters::DropReason;
use crate::messages::{PublishError, SubscribeError, publish, round_trip, subscribe};

/// The queue group of kvstore processes, which share the requests.
const STORE_QUEUE: &str = "kvstore";

impl Bus {
    /// Serves the requests of one kind to this worker. When it returns, the server has the
    /// subscription.
    pub async fn serve_worker<M: WorkerRequest>(
        &self,
        worker: &WorkerId,
    ) -> Result<Incoming<M>, SubscribeError> {
        self.serve(Subject::Worker(worker, M::VERB), None).await
    }

    /// Serves the requests of one kind to the kvstore, together with other kvstore processes.
    pub async fn serve_store<M: StoreRequest>(&self) -> Result<Incoming<M>, SubscribeError> {
        self.serve(Subject::Store(M::VERB), Some(STORE_QUEUE)).await
    }

    /// Waits until the server has handled everything sent before on the control connection: a
    /// round trip through an inbox of our own.
    pub async fn synced(&self) -> Result<(), SubscribeError> {
        round_trip(&self.inner.control.client).await
    }

    async fn serve<M: Request>(
        &self,
        subject: Subject<'_>,
        queue: Option<&str>,
    ) -> Result<Incoming<M>, SubscribeError> {
        let subject = subject.to_string();
        let Link { client, .. } = &self.inner.control;
        let messages = subscribe(client, &subject, queue).await?;
        self.synced().await?;
        Ok(Incoming { bus: self.clone(), messages, kind: PhantomData })
    }
}

/// The requests of one kind, as they arrive.
pub struct Incoming<M> {
    bus: Bus,
    messages: Subscriber,
    kind: PhantomData<fn() -> M>,
}

impl<M: Request> Incoming<M> {
    /// Returns the next well-formed request; `None` once the bus is closed. Safe to abandon.
    pub async fn next(&mut self) -> Option<Call<M>> {
        loop {
            let message = self.messages.next().await?;
            if let Some(call) = self.read(message) {
                return Some(call);
            }
        }
    }

    fn read(&self, message: Message) -> Option<Call<M>> {
        let drop_message = |reason, why: &str| {
            self.bus.inner.counters.drop_message(reason, message.subject.as_str(), why);
        };
        let decoded = protocol::decode(&message.payload, M::BYTES_MAX);
        let request = match decoded {
            Ok(request) => request,
            Err(error) => {
                drop_message(DropReason::of(&error), &error.to_string());
                return None;
            }
        };
        let context = Context::of_headers(message.headers.as_ref());
        let Some(reply_to) = message.reply else {
            drop_message(DropReason::NoReply, "no reply subject");
            return None;
        };
        let client = self.bus.inner.control.client.clone();
        let responder = Responder { client, reply_to: reply_to.to_string(), kind: PhantomData };
        Some(Call { message: request, context, responder })
    }
}

/// A request that waits for its reply.
pub struct Call<M> {
    /// The request.
    pub message: M,
    /// The caller's trace.
    pub context: Context,
    /// The sender of the reply.
    pub responder: Responder<M>,
}

impl<M: Request> Call<M> {
    /// Replies to the request.
    pub async fn answer(self, reply: &M::Reply) -> Result<(), PublishError> {
        self.responder.answer(reply).await
    }
}

/// The reply to one request. Dropping it leaves the caller to its timeout.
pub struct Responder<M> {
    client: Client,
    reply_to: String,
    kind: PhantomData<fn() -> M>,
}

impl<M: Request> Responder<M> {
    /// Replies to the request.
    pub async fn answer(self, reply: &M::Reply) -> Result<(), PublishError> {
        let payload = match protocol::encode(reply) {
            Ok(payload) => payload,
            Err(source) => return Err(PublishError::Encode { subject: self.reply_to, source }),
        };
        publish(&self.client, self.reply_to, async_nats::HeaderMap::new(), payload).await
    }
}
