//! The server goes away and comes back.

use std::time::Duration;

use bus::{AnnounceError, Bus, BusOptions, Context, IndexEvent, PresenceEvent, RequestErrorKind};
use protocol::{Acknowledged, Release, RequestKey};
use testbed::{PATIENCE, eventually};

use crate::site::{Site, block, fingerprint, hash, soon, state};

fn release() -> Release {
    let key = RequestKey { request: protocol::RequestId(1), attempt: protocol::Attempt(0) };
    Release { fingerprint: fingerprint(), key }
}

#[testbed::test(multi_thread)]
async fn everything_goes_on_after_a_restart() {
    let mut site = Site::start();
    let bus = site.bus("worker").await;
    let blocks = site.blocks(&bus).await;
    soon(blocks.put(None, block(1, 1_000))).await.unwrap();
    let mut pull = blocks.pull(vec![hash(1), hash(2)]).await.unwrap();
    assert_eq!(soon(pull.next()).await.unwrap().unwrap().hash, hash(1));
    let mut index = blocks.index();
    while soon(index.next()).await != IndexEvent::CaughtUp {}
    let mut watch = bus.presence().watch();
    bus.presence().announce(&state("w")).await.unwrap();
    while !matches!(soon(watch.next()).await, PresenceEvent::Up(_)) {}
    let mut incoming = bus.serve_store::<Release>().await.unwrap();

    site.server.stop().unwrap();
    eventually("the bus is disconnected", async || !bus.connected()).await;
    let asked = soon(bus.ask_store(&release(), &Context::default(), PATIENCE)).await;
    assert!(matches!(asked.unwrap_err().kind, RequestErrorKind::Disconnected));
    site.server.restart().unwrap();
    eventually("the bus is connected again", async || bus.connected()).await;

    // The bucket was in memory: the first announcement makes it again.
    eventually("an announcement succeeds", async || {
        bus.presence().announce(&state("w")).await.is_ok()
    })
    .await;
    loop {
        match soon(watch.next()).await {
            PresenceEvent::Up(seen) => break assert_eq!(*seen, state("w")),
            PresenceEvent::Gone(worker) => panic!("{worker} was back in time"),
            PresenceEvent::Synced | PresenceEvent::Interrupted { .. } => {}
        }
    }
    eventually("a put succeeds", async || blocks.put(None, block(2, 1_000)).await.is_ok()).await;
    assert_eq!(soon(pull.next()).await.unwrap().unwrap().hash, hash(2));
    assert!(soon(pull.next()).await.is_none());
    loop {
        match soon(index.next()).await {
            IndexEvent::Stored { hash: stored, .. } => break assert_eq!(stored, hash(2)),
            IndexEvent::Restarted => panic!("the stream is in a file"),
            IndexEvent::CaughtUp | IndexEvent::Interrupted { .. } => {}
        }
    }
    let serve = async { incoming.next().await.unwrap().answer(&Acknowledged {}).await.unwrap() };
    let (message, context) = (release(), Context::default());
    let ask = bus.ask_store(&message, &context, PATIENCE);
    let (_, asked) = soon(async { tokio::join!(serve, ask) }).await;
    asked.unwrap();
    assert!(bus.counters().disconnects > 0);
}

#[testbed::test(multi_thread)]
async fn a_worker_that_died_in_the_outage_is_gone() {
    let mut site = Site::start();
    let bus = site.bus("gateway").await;
    let mut watch = bus.presence().watch();
    for name in ["dead", "alive"] {
        bus.presence().announce(&state(name)).await.unwrap();
    }
    let mut up = 0;
    while up < 2 {
        up += usize::from(matches!(soon(watch.next()).await, PresenceEvent::Up(_)));
    }
    site.server.stop().unwrap();
    site.server.restart().unwrap();
    eventually("an announcement succeeds", async || {
        bus.presence().announce(&state("alive")).await.is_ok()
    })
    .await;
    loop {
        tokio::select! {
            event = watch.next() => if let PresenceEvent::Gone(worker) = event {
                break assert_eq!(worker.as_str(), "dead");
            },
            () = tokio::time::sleep(Duration::from_millis(500)) => {
                let _another_try_follows = bus.presence().announce(&state("alive")).await;
            }
        }
    }
}

#[testbed::test(multi_thread)]
async fn a_stream_made_again_is_read_from_the_beginning() {
    let site = Site::start();
    let bus = site.bus("kvstore").await;
    let blocks = site.blocks(&bus).await;
    for n in 0..3 {
        soon(blocks.put(None, block(n, 100))).await.unwrap();
    }
    let mut index = blocks.index();
    while soon(index.next()).await != IndexEvent::CaughtUp {}
    let stranger = async_nats::jetstream::new(site.stranger().await);
    stranger.delete_stream(blocks.stream()).await.unwrap();
    site.blocks(&bus).await;
    soon(blocks.put(None, block(9, 100))).await.unwrap();
    let mut restarted = false;
    loop {
        match soon(index.next()).await {
            IndexEvent::Stored { hash: stored, .. } => break assert_eq!(stored, hash(9)),
            IndexEvent::Restarted => restarted = true,
            IndexEvent::CaughtUp | IndexEvent::Interrupted { .. } => {}
        }
    }
    assert!(restarted);
}

#[testbed::test(multi_thread)]
async fn connecting_waits_for_the_server_or_the_stop() {
    let mut site = Site::start();
    site.server.stop().unwrap();
    let options = BusOptions {
        url: site.server.url().into(),
        name: "early".to_owned(),
        connect_timeout: Duration::from_secs(5),
    };
    let error = soon(Bus::connect(options.clone())).await.err().unwrap();
    assert!(error.to_string().contains(&site.server.url()), "{error}");
    let stopped = soon(Bus::connect_with_retry(options.clone(), std::future::ready(()))).await;
    assert!(stopped.is_none());
    let connect = Bus::connect_with_retry(options, std::future::pending());
    let (bus, restarted) = soon(async {
        tokio::join!(connect, async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            site.server.restart()
        })
    })
    .await;
    restarted.unwrap();
    assert!(bus.unwrap().connected());
}

#[testbed::test(multi_thread)]
async fn an_announcement_without_a_server_is_an_error() {
    let mut site = Site::start();
    let bus = site.bus("worker").await;
    bus.presence().announce(&state("w")).await.unwrap();
    site.server.stop().unwrap();
    let error = soon(bus.presence().announce(&state("w"))).await.unwrap_err();
    assert!(matches!(error, AnnounceError::Failed { .. }), "{error}");
}
