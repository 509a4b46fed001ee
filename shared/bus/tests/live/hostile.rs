//! Bytes that no service of ours sent, on every subject.

use async_nats::HeaderMap;
use bus::{Context, DropReason, IndexEvent, PresenceEvent};
use protocol::subject::PRESENCE_BUCKET;
use protocol::{Acknowledged, Cancel, Job, Lookup, Release, RequestKey, TokenBatch};
use testbed::eventually;

use crate::site::{Site, block, fingerprint, hash, soon, state, worker};

const JUNK: [&[u8]; 5] =
    [b"", b"\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\x91\x91\x91\x91", b"{\"json\":1}"];

#[testbed::test(multi_thread)]
async fn junk_requests_are_counted_and_never_answered() {
    let site = Site::start();
    let bus = site.bus("worker").await;
    let stranger = site.stranger().await;
    let mut answers = stranger.subscribe("answers").await.unwrap();
    let id = worker("w");
    let mut jobs = bus.serve_worker::<Job>(&id).await.unwrap();
    let mut cancels = bus.serve_worker::<Cancel>(&id).await.unwrap();
    let mut lookups = bus.serve_store::<Lookup>().await.unwrap();
    let mut serving = tokio::task::JoinSet::new();
    serving.spawn(async move { while jobs.next().await.is_some() {} });
    serving.spawn(async move { while lookups.next().await.is_some() {} });
    let subjects =
        ["tandem.v1.worker.w.job", "tandem.v1.worker.w.cancel", "tandem.v1.kvstore.lookup"];
    for subject in subjects {
        for junk in JUNK {
            stranger.publish_with_reply(subject, "answers", junk.into()).await.unwrap();
        }
    }
    let too_long = vec![0u8; 2_000];
    stranger.publish_with_reply(subjects[1], "answers", too_long.into()).await.unwrap();
    let key = RequestKey { request: protocol::RequestId(1), attempt: protocol::Attempt(0) };
    let good = Cancel { key, reason: protocol::CancelReason::Deadline };
    let good = protocol::encode(&good).unwrap();
    stranger.publish(subjects[1], good.clone().into()).await.unwrap();

    let mut headers = HeaderMap::new();
    headers.insert("traceparent", "00-not-a-trace");
    let publish =
        stranger.publish_with_reply_and_headers(subjects[1], "answers", headers, good.into());
    publish.await.unwrap();
    let call = soon(cancels.next()).await.unwrap();
    assert_eq!(call.context, Context::default());
    call.answer(&Acknowledged {}).await.unwrap();

    use futures::StreamExt as _;
    let first = soon(answers.next()).await.unwrap();
    assert_eq!(protocol::decode::<Acknowledged>(&first.payload, 100).unwrap(), Acknowledged {});
    eventually("the malformed messages are counted", async || {
        bus.counters().dropped(DropReason::Malformed) == 15
    })
    .await;
    assert_eq!(bus.counters().dropped(DropReason::TooLong), 1);
    assert_eq!(bus.counters().dropped(DropReason::NoReply), 1);
    assert_eq!(bus.counters().dropped_total(), 17);
}

#[testbed::test(multi_thread)]
async fn junk_tokens_are_counted_and_the_next_batch_arrives() {
    let site = Site::start();
    let bus = site.bus("gateway").await;
    let gateway = "g".parse().unwrap();
    let mut tokens = bus.tokens(&gateway).await.unwrap();
    let stranger = site.stranger().await;
    for junk in JUNK {
        stranger.publish("tandem.v1.gateway.g.tokens", junk.into()).await.unwrap();
    }
    let batch = TokenBatch { worker: worker("w"), events: Vec::new() };
    let good = protocol::encode(&batch).unwrap();
    stranger.publish("tandem.v1.gateway.g.tokens", good.into()).await.unwrap();
    assert_eq!(soon(tokens.next()).await.unwrap(), batch);
    assert_eq!(bus.counters().dropped(DropReason::Malformed), JUNK.len() as u64);
}

#[testbed::test(multi_thread)]
async fn junk_presence_is_counted_and_the_next_worker_is_seen() {
    let site = Site::start();
    let bus = site.bus("gateway").await;
    let mut watch = bus.presence().watch();
    assert_eq!(soon(watch.next()).await, PresenceEvent::Synced);
    let stranger = async_nats::jetstream::new(site.stranger().await);
    let under = |key: &str| format!("$KV.{PRESENCE_BUCKET}.{key}");
    let liar = protocol::encode(&state("liar")).unwrap();
    let sent = [
        (under("junk-1"), JUNK[1].to_vec()),
        (under("junk-2"), vec![0x91; 10_000]),
        (under("bad=name"), liar.clone()),
        (under("honest"), liar),
    ];
    for (subject, value) in sent {
        stranger.publish(subject, value.into()).await.unwrap().await.unwrap();
    }
    bus.presence().announce(&state("w")).await.unwrap();
    assert_eq!(soon(watch.next()).await, PresenceEvent::Up(Box::new(state("w"))));
    assert_eq!(bus.counters().dropped(DropReason::Malformed), 2);
    assert_eq!(bus.counters().dropped(DropReason::Subject), 2);
}

#[testbed::test(multi_thread)]
async fn junk_frames_reach_neither_the_index_nor_a_pull() {
    let site = Site::start();
    let bus = site.bus("both").await;
    let blocks = site.blocks(&bus).await;
    let stranger = async_nats::jetstream::new(site.stranger().await);
    let namespace = fingerprint().namespace();
    let header = |text: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(protocol::frame::FRAME_HEADER, text);
        headers
    };
    let huge = format!("v1 0/128 16 268435456 {} {}", "0".repeat(32), "0".repeat(64));
    let sent = [
        (format!("kvx._.{namespace}.not-a-hash.0"), header("v1")),
        (format!("kvx._.{namespace}.{}.0", hash(1)), header("v1 junk")),
        (format!("kvx._.{namespace}.{}.0", hash(2)), header(&huge)),
        (format!("kvx._.{namespace}.{}.7", hash(3)), header(&huge)),
    ];
    for (subject, headers) in sent {
        let put = stranger.publish_with_headers(subject, headers, "body".into()).await.unwrap();
        put.await.unwrap();
    }
    soon(blocks.put(None, block(4, 100))).await.unwrap();

    let mut pull = blocks.pull((1..5).map(hash).collect()).await.unwrap();
    let mut whole = Vec::new();
    let mut refused = 0;
    while let Some(arrived) = soon(pull.next()).await {
        match arrived {
            Ok(block) => whole.push(block.hash),
            Err(_) => refused += 1,
        }
    }
    assert_eq!((whole, refused), (vec![hash(4)], 3));
    assert_eq!(bus.counters().dropped(DropReason::Frame), 3);

    let mut index = blocks.index();
    let mut stored = Vec::new();
    loop {
        match soon(index.next()).await {
            // Its header is well-formed; what lies about the body shows when it is read.
            IndexEvent::Stored { hash, .. } => stored.push(hash),
            IndexEvent::CaughtUp => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(stored, [hash(2), hash(4)]);
    assert_eq!(bus.counters().dropped(DropReason::Subject), 1);
}

#[testbed::test(multi_thread)]
async fn a_request_of_another_kind_is_malformed() {
    let site = Site::start();
    let bus = site.bus("kvstore").await;
    let mut releases = bus.serve_store::<Release>().await.unwrap();
    let stranger = site.stranger().await;
    let status = protocol::encode(&protocol::StoreStatus {}).unwrap();
    stranger.publish_with_reply("tandem.v1.kvstore.release", "x", status.into()).await.unwrap();
    let key = RequestKey { request: protocol::RequestId(1), attempt: protocol::Attempt(0) };
    let good = Release { fingerprint: fingerprint(), key };
    let encoded = protocol::encode(&good).unwrap();
    stranger.publish_with_reply("tandem.v1.kvstore.release", "x", encoded.into()).await.unwrap();
    assert_eq!(soon(releases.next()).await.unwrap().message, good);
    assert_eq!(bus.counters().dropped(DropReason::Malformed), 1);
}
