//! Requests, answers, and their absence.

use std::time::Duration;

use bus::{Context, RequestErrorKind};
use protocol::{
    Acknowledged, Attempt, Cancel, CancelReason, ErrorClass, RequestId, RequestKey, StoreStatus,
    StoreStatusReply,
};
use testbed::PATIENCE;

use crate::site::{Site, soon, worker};

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn cancel() -> Cancel {
    let key = RequestKey { request: RequestId(5), attempt: Attempt(2) };
    Cancel { key, reason: CancelReason::ClientGone }
}

#[testbed::test(multi_thread)]
async fn a_request_and_its_context_arrive_and_are_answered() {
    let site = Site::start();
    let (asking, serving) = (site.bus("gateway").await, site.bus("decode").await);
    let mut incoming = serving.serve_worker::<Cancel>(&worker("decode-1")).await.unwrap();
    let serve = async {
        let call = incoming.next().await.unwrap();
        let seen = (call.message.clone(), call.context.clone());
        call.answer(&Acknowledged {}).await.unwrap();
        seen
    };
    let context = Context::new(TRACEPARENT);
    let to = worker("decode-1");
    let message = cancel();
    let ask = asking.ask_worker(&to, &message, &context, PATIENCE);
    let (seen, answer) = soon(async { tokio::join!(serve, ask) }).await;
    assert_eq!(seen, (cancel(), context));
    assert_eq!(answer.unwrap(), Acknowledged {});
}

#[testbed::test(multi_thread)]
async fn a_worker_that_is_gone_is_an_error_at_once() {
    let site = Site::start();
    let bus = site.bus("gateway").await;
    // Longer than the test's patience: only an immediate answer can pass.
    let timeout = 10 * PATIENCE;
    let asked =
        soon(bus.ask_worker(&worker("gone"), &cancel(), &Context::default(), timeout)).await;
    let error = asked.unwrap_err();
    assert!(error.is_no_responders(), "{error}");
    assert_eq!(error.class(), ErrorClass::Retry);
}

#[testbed::test(multi_thread)]
async fn a_silent_worker_is_a_timeout() {
    let site = Site::start();
    let bus = site.bus("gateway").await;
    let _unread = bus.serve_worker::<Cancel>(&worker("hung")).await.unwrap();
    let timeout = Duration::from_millis(50);
    let asked =
        soon(bus.ask_worker(&worker("hung"), &cancel(), &Context::default(), timeout)).await;
    let error = asked.unwrap_err();
    assert!(matches!(error.kind, RequestErrorKind::Timeout { timeout_ms: 50 }), "{error}");
}

#[testbed::test(multi_thread)]
async fn an_unreadable_answer_is_an_error_of_its_own() {
    let site = Site::start();
    let bus = site.bus("gateway").await;
    let stranger = site.stranger().await;
    let mut asked = stranger.subscribe("tandem.v1.kvstore.status").await.unwrap();
    stranger.flush().await.unwrap();
    let answer = async {
        use futures::StreamExt as _;
        let request = asked.next().await.unwrap();
        stranger.publish(request.reply.unwrap(), "\u{1}junk".into()).await.unwrap();
    };
    let ask = async {
        // The subscription of a stranger may take a moment to be seen.
        loop {
            match bus.ask_store(&StoreStatus {}, &Context::default(), PATIENCE).await {
                Err(error) if error.is_no_responders() => tokio::task::yield_now().await,
                other => return other,
            }
        }
    };
    let (_, asked) = soon(async { tokio::join!(answer, ask) }).await;
    assert_eq!(asked.unwrap_err().class(), ErrorClass::Internal);
}

#[testbed::test(multi_thread)]
async fn kvstores_share_the_requests() {
    let site = Site::start();
    let bus = site.bus("gateway").await;
    let (one, two) = (site.bus("kvstore-1").await, site.bus("kvstore-2").await);
    let mut serving = tokio::task::JoinSet::new();
    for bus in [one, two] {
        let mut incoming = bus.serve_store::<StoreStatus>().await.unwrap();
        serving.spawn(async move {
            while let Some(call) = incoming.next().await {
                let reply = StoreStatusReply {
                    streams: 0,
                    blocks: 3,
                    bytes: 0,
                    leased: 0,
                    evicted: 0,
                    caught_up: true,
                };
                call.answer(&reply).await.unwrap();
            }
        });
    }
    for _ in 0..20 {
        let asked = bus.ask_store(&StoreStatus {}, &Context::default(), PATIENCE).await;
        assert_eq!(asked.unwrap().blocks, 3);
    }
}
