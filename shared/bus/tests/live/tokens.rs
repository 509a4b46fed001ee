//! Token batches to a gateway.

use protocol::{
    Attempt, ErrorClass, Event, Failure, GatewayId, Refusal, RequestId, RequestKey, TokenBatch,
    TokenEvent, TraceVerdicts,
};

use crate::site::{Site, soon, worker};

fn key(request: u128) -> RequestKey {
    RequestKey { request: RequestId(request), attempt: Attempt(0) }
}

fn token(index: u32) -> Event {
    Event::Token(TokenEvent {
        key: key(1),
        index,
        token: Some(index + 100),
        logprob: None,
        finish: None,
        opening: None,
        sent_us: 0,
        stages: None,
    })
}

#[testbed::test(multi_thread)]
async fn batches_arrive_in_order_at_their_gateway_only() {
    let site = Site::start();
    let (sending, receiving) = (site.bus("decode").await, site.bus("gateway").await);
    let gateway: GatewayId = "gateway-1".parse().unwrap();
    let other: GatewayId = "gateway-2".parse().unwrap();
    let mut tokens = receiving.tokens(&gateway).await.unwrap();
    let batch = |events| TokenBatch { worker: worker("decode-1"), events };
    sending.send_tokens(&other, &batch(vec![token(99)])).await.unwrap();
    for index in 0..50 {
        sending.send_tokens(&gateway, &batch(vec![token(index)])).await.unwrap();
    }
    for index in 0..50 {
        assert_eq!(soon(tokens.next()).await.unwrap(), batch(vec![token(index)]));
    }
}

#[testbed::test(multi_thread)]
async fn a_batch_above_the_payload_limit_arrives_in_parts() {
    let site = Site::start();
    let bus = site.bus("both").await;
    let gateway: GatewayId = "gateway-1".parse().unwrap();
    let mut tokens = bus.tokens(&gateway).await.unwrap();
    let events = (0..100).map(|request| {
        let refusal = Refusal::new(ErrorClass::Retry, "x".repeat(100_000));
        Event::Failed(Failure { key: key(request), refusal })
    });
    let batch = TokenBatch { worker: worker("decode-1"), events: events.collect() };
    bus.send_tokens(&gateway, &batch).await.unwrap();
    let mut received = Vec::new();
    while received.len() < batch.events.len() {
        received.extend(soon(tokens.next()).await.unwrap().events);
    }
    assert_eq!(received, batch.events);
}

#[testbed::test(multi_thread)]
async fn verdicts_reach_everyone_however_many_they_are() {
    let site = Site::start();
    let (gateway, worker) = (site.bus("gateway").await, site.bus("worker").await);
    let mut heard = worker.verdicts().await.unwrap();
    worker.synced().await.unwrap();
    let id = |number: u32| u128::from(number).to_be_bytes();
    let keep: Vec<_> = (0..10_000).map(id).collect();
    let verdicts = TraceVerdicts { keep: keep.clone(), forget: vec![id(10_000)] };
    gateway.send_verdicts(&verdicts).await.unwrap();
    let mut all = TraceVerdicts::default();
    while all.keep.len() < keep.len() {
        let next = soon(heard.next()).await.unwrap();
        all.keep.extend(next.keep);
        all.forget.extend(next.forget);
    }
    assert_eq!(all, verdicts);
}
