//! Blocks put once and pulled by name.

use std::collections::BTreeSet;
use std::time::Duration;

use bus::{Blocks, DropReason, Index, IndexEvent, Pull, PullError, PutErrorKind, PutOutcome};
use futures::TryStreamExt as _;
use protocol::{BlockFrame, BlockHash, Discard, Scope};
use testbed::eventually;
use tokio::time::Instant;

use crate::site::{Site, block, fingerprint, hash, soon};

async fn put(blocks: &Blocks, n: u32, bytes: usize) {
    let outcome = soon(blocks.put(None, block(n, bytes))).await.unwrap();
    assert_eq!(outcome, PutOutcome::Stored);
}

/// The numbers of the next blocks, each checked byte for byte.
async fn arrivals(pull: &mut Pull, count: usize, bytes: usize) -> BTreeSet<BlockHash> {
    let mut arrived = BTreeSet::new();
    for _ in 0..count {
        let got = soon(pull.next()).await.expect("more blocks are wanted").unwrap();
        let n = u32::from_le_bytes(got.hash.0[..4].try_into().unwrap());
        assert_eq!(got.bytes, block(n, bytes).bytes);
        assert_eq!(got.tokens, 16);
        assert!(arrived.insert(got.hash), "{} came twice", got.hash);
    }
    arrived
}

fn hashes(numbers: std::ops::Range<u32>) -> Vec<BlockHash> {
    numbers.map(hash).collect()
}

#[testbed::test(multi_thread)]
async fn a_block_put_twice_is_stored_once() {
    let site = Site::start();
    let bus = site.bus("prefill").await;
    let blocks = site.blocks(&bus).await;
    put(&blocks, 1, 10_000).await;
    let again = soon(blocks.put(None, block(1, 10_000))).await.unwrap();
    assert_eq!(again, PutOutcome::AlreadyThere);
    assert_eq!(blocks.state().await.unwrap().frames, 1);
    let counters = bus.counters();
    assert_eq!((counters.blocks_stored, counters.blocks_already_there), (1, 1));
}

#[testbed::test(multi_thread)]
async fn of_eight_concurrent_puts_one_stores() {
    let site = Site::start();
    let mut puts = tokio::task::JoinSet::new();
    let first = site.bus("prefill").await;
    let stream = site.blocks(&first).await;
    for n in 0..8 {
        let blocks = site.bus(&format!("prefill-{n}")).await.blocks(&fingerprint());
        puts.spawn(async move { blocks.put(None, block(1, 300_000)).await.unwrap() });
    }
    let outcomes = soon(puts.join_all()).await;
    let stored = outcomes.iter().filter(|outcome| **outcome == PutOutcome::Stored).count();
    assert_eq!(stored, 1);
    assert_eq!(stream.state().await.unwrap().frames, 1);
}

#[testbed::test(multi_thread)]
async fn stored_blocks_come_at_once_and_missing_ones_when_stored() {
    let site = Site::start();
    let (prefill, decode) = (site.bus("prefill").await, site.bus("decode").await);
    let stored = site.blocks(&prefill).await;
    for n in 0..3 {
        put(&stored, n, 50_000).await;
    }
    put(&stored, 77, 50_000).await;
    let blocks = decode.blocks(&fingerprint());
    let mut pull = blocks.pull(hashes(0..6)).await.unwrap();
    assert_eq!(arrivals(&mut pull, 3, 50_000).await, hashes(0..3).into_iter().collect());
    assert_eq!(pull.missing().collect::<Vec<_>>(), hashes(3..6));
    let to = "decode-1".parse().unwrap();
    for n in 3..6 {
        soon(stored.put(Some(&to), block(n, 50_000))).await.unwrap();
    }
    assert_eq!(arrivals(&mut pull, 3, 50_000).await, hashes(3..6).into_iter().collect());
    assert!(soon(pull.next()).await.is_none());
    assert_eq!(decode.counters().blocks_pulled, 6);
}

#[testbed::test(multi_thread)]
async fn three_hundred_blocks_need_two_consumers_that_go_afterwards() {
    let site = Site::start();
    let bus = site.bus("both").await;
    let blocks = site.blocks(&bus).await;
    for n in 0..300 {
        put(&blocks, n, 4_000).await;
    }
    let mut pull = blocks.pull(hashes(0..300)).await.unwrap();
    assert_eq!(arrivals(&mut pull, 300, 4_000).await.len(), 300);
    assert!(soon(pull.next()).await.is_none());
    drop(pull);
    let half_way = blocks.pull(hashes(250..301)).await.unwrap();
    drop(half_way);
    let stranger = async_nats::jetstream::new(site.stranger().await);
    let stream = stranger.get_stream(blocks.stream()).await.unwrap();
    eventually("the consumers are deleted", async || {
        stream.get_info().await.unwrap().state.consumer_count == 0
    })
    .await;
}

#[testbed::test(multi_thread)]
async fn a_consumer_deleted_under_a_pull_is_made_again_for_what_is_missing() {
    let site = Site::start();
    let bus = site.bus("both").await;
    let blocks = site.blocks(&bus).await;
    put(&blocks, 0, 4_000).await;
    let mut pull = blocks.pull(hashes(0..2)).await.unwrap();
    arrivals(&mut pull, 1, 4_000).await;
    let stranger = async_nats::jetstream::new(site.stranger().await);
    let stream = stranger.get_stream(blocks.stream()).await.unwrap();
    let consumers: Vec<String> = stream.consumer_names().try_collect().await.unwrap();
    assert_eq!(consumers.len(), 1);
    stream.delete_consumer(&consumers[0]).await.unwrap();
    put(&blocks, 1, 4_000).await;
    assert_eq!(arrivals(&mut pull, 1, 4_000).await, [hash(1)].into());
    assert!(soon(pull.next()).await.is_none());
}

#[testbed::test(multi_thread)]
async fn a_block_of_several_frames_arrives_whole() {
    let site = Site::start();
    let bus = site.bus("both").await;
    let blocks = site.blocks(&bus).await;
    let bytes = (5 << 20) + 123;
    put(&blocks, 9, bytes).await;
    assert_eq!(blocks.state().await.unwrap().frames, 3);
    let again = soon(blocks.put(None, block(9, bytes))).await.unwrap();
    assert_eq!(again, PutOutcome::AlreadyThere);
    let mut pull = blocks.pull(vec![hash(9)]).await.unwrap();
    arrivals(&mut pull, 1, bytes).await;
}

#[testbed::test(multi_thread)]
async fn waiting_ends_at_the_deadline() {
    let site = Site::start();
    let bus = site.bus("decode").await;
    let blocks = site.blocks(&bus).await;
    put(&blocks, 1, 1_000).await;
    let mut pull = blocks.pull(hashes(1..3)).await.unwrap();
    pull.finish_by(Instant::now() + Duration::from_millis(300));
    let mut arrived = Vec::new();
    while let Some(block) = soon(pull.next()).await {
        arrived.push(block.unwrap().hash);
    }
    // A slow machine may reach the deadline before the first block.
    let missing: Vec<_> = pull.missing().collect();
    assert!(missing.contains(&hash(2)));
    assert_eq!(arrived.len() + missing.len(), 2);
}

#[testbed::test(multi_thread)]
async fn a_damaged_body_is_a_miss_and_is_reported_to_the_kvstore() {
    let site = Site::start();
    let bus = site.bus("decode").await;
    let blocks = site.blocks(&bus).await;
    let mut discards = site.bus("kvstore").await.serve_store::<Discard>().await.unwrap();
    let stranger = async_nats::jetstream::new(site.stranger().await);
    let body = block(1, 1_000).bytes;
    let (header, _) = BlockFrame::split(16, Scope::shared(), &body).remove(0);
    let mut damaged = body.to_vec();
    damaged[500] ^= 0x10;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert(protocol::frame::FRAME_HEADER, header.to_string());
    let subject = format!("kvx._.{}.{}.0", fingerprint().namespace(), hash(1));
    let sent = stranger.publish_with_headers(subject, headers, damaged.into()).await.unwrap();
    sent.await.unwrap();
    put(&blocks, 2, 1_000).await;

    let mut pull = blocks.pull(hashes(1..3)).await.unwrap();
    let error = soon(pull.next()).await.unwrap().unwrap_err();
    assert!(
        matches!(error, PullError::Damaged { hash: damaged, .. } if damaged == hash(1)),
        "{error}"
    );
    arrivals(&mut pull, 1, 1_000).await;
    assert!(soon(pull.next()).await.is_none());
    assert_eq!(bus.counters().dropped(DropReason::Checksum), 1);
    let report = soon(discards.next()).await.unwrap();
    assert_eq!(report.message, Discard { fingerprint: fingerprint(), block: hash(1) });

    blocks.delete(hash(1), u64::MAX).await.unwrap();
    put(&blocks, 1, 1_000).await;
    let mut pull = blocks.pull(vec![hash(1)]).await.unwrap();
    arrivals(&mut pull, 1, 1_000).await;
}

#[testbed::test(multi_thread)]
async fn without_a_stream_both_ways_say_so() {
    let site = Site::start();
    let blocks = site.bus("both").await.blocks(&fingerprint());
    let put = soon(blocks.put(None, block(1, 10))).await.unwrap_err();
    assert!(matches!(put.kind, PutErrorKind::NoStream), "{put}");
    let pull = soon(blocks.pull(vec![hash(1)])).await.err().unwrap();
    assert!(matches!(pull, PullError::NoStream(_)), "{pull}");
}

#[testbed::test(multi_thread)]
async fn pulling_nothing_ends_at_once() {
    let site = Site::start();
    let blocks = site.bus("both").await.blocks(&fingerprint());
    assert!(soon(blocks.pull(Vec::new()).await.unwrap().next()).await.is_none());
}

async fn stored(index: &mut Index) -> (BlockHash, u64) {
    match soon(index.next()).await {
        IndexEvent::Stored { hash, sequence, frame, stored_at_ms } => {
            assert_eq!((frame.frame, frame.frames, frame.block_bytes), (0, 1, 700));
            assert!(stored_at_ms > 1_700_000_000_000);
            (hash, sequence)
        }
        other => panic!("{other:?}"),
    }
}

#[testbed::test(multi_thread)]
async fn the_index_tells_what_is_stored_and_then_what_is_added() {
    let site = Site::start();
    let bus = site.bus("kvstore").await;
    let blocks = site.blocks(&bus).await;
    put(&blocks, 1, 700).await;
    put(&blocks, 2, 700).await;
    let mut index = blocks.index();
    assert_eq!(stored(&mut index).await, (hash(1), 1));
    assert_eq!(stored(&mut index).await, (hash(2), 2));
    assert_eq!(soon(index.next()).await, IndexEvent::CaughtUp);
    put(&blocks, 3, 700).await;
    assert_eq!(stored(&mut index).await, (hash(3), 3));
    blocks.delete(hash(2), 1).await.unwrap();
    assert_eq!(blocks.state().await.unwrap().frames, 3);
    blocks.delete(hash(1), 1).await.unwrap();
    assert_eq!(blocks.state().await.unwrap().first_sequence, 2);
    let found = bus.stored_models().await.unwrap();
    assert_eq!(found.iter().map(Blocks::namespace).collect::<Vec<_>>(), [blocks.namespace()]);
}

/// The blocks that a fetch brings, each checked byte for byte.
async fn fetched(blocks: &Blocks, wanted: Vec<BlockHash>, bytes: usize) -> Vec<BlockHash> {
    let mut fetch = blocks.fetch(wanted).await.unwrap();
    let mut names = Vec::new();
    while let Some(got) = soon(fetch.next()).await {
        let got = got.unwrap();
        let n = u32::from_le_bytes(got.hash.0[..4].try_into().unwrap());
        assert_eq!((got.bytes, got.tokens), (block(n, bytes).bytes.to_vec(), 16));
        names.push(got.hash);
    }
    names
}

#[testbed::test(multi_thread)]
async fn a_fetch_brings_what_is_stored_and_ends() {
    let site = Site::start();
    let bus = site.bus("both").await;
    let blocks = site.blocks(&bus).await;
    assert_eq!(fetched(&blocks, hashes(0..3), 1_000).await, []);
    for n in 0..300 {
        put(&blocks, n, 1_000).await;
    }
    assert_eq!(fetched(&blocks, hashes(250..400), 1_000).await, hashes(250..300));
    assert_eq!(fetched(&blocks, hashes(0..300), 1_000).await, hashes(0..300));
    assert_eq!(fetched(&blocks, Vec::new(), 0).await, []);
    assert_eq!(blocks.state().await.unwrap().frames, 300);
    assert_eq!(bus.counters().blocks_pulled, 350);
}

#[testbed::test(multi_thread)]
async fn what_does_not_fit_into_one_answer_is_fetched_with_the_next() {
    let site = Site::start();
    let bus = site.bus("both").await;
    let blocks = site.blocks(&bus).await;
    let bytes = (2 << 20) + 500_000;
    for n in 0..7 {
        put(&blocks, n, bytes).await;
    }
    let mut names = fetched(&blocks, hashes(0..9), bytes).await;
    names.sort_unstable();
    let mut all = hashes(0..7);
    all.sort_unstable();
    assert_eq!(names, all);
}

#[testbed::test(multi_thread)]
async fn a_fetch_reports_damage_and_goes_on() {
    let site = Site::start();
    let bus = site.bus("decode").await;
    let blocks = site.blocks(&bus).await;
    let mut discards = site.bus("kvstore").await.serve_store::<Discard>().await.unwrap();
    let body = block(1, 1_000).bytes;
    let (header, _) = BlockFrame::split(16, Scope::shared(), &body).remove(0);
    let mut headers = async_nats::HeaderMap::new();
    headers.insert(protocol::frame::FRAME_HEADER, header.to_string());
    let subject = format!("kvx._.{}.{}.0", fingerprint().namespace(), hash(1));
    let stranger = async_nats::jetstream::new(site.stranger().await);
    let damaged = vec![7; 1_000];
    let sent = stranger.publish_with_headers(subject, headers, damaged.into()).await.unwrap();
    sent.await.unwrap();
    put(&blocks, 2, 1_000).await;
    let mut fetch = blocks.fetch(hashes(1..3)).await.unwrap();
    let error = soon(fetch.next()).await.unwrap().unwrap_err();
    assert!(
        matches!(error, PullError::Damaged { hash: damaged, .. } if damaged == hash(1)),
        "{error}"
    );
    assert_eq!(soon(fetch.next()).await.unwrap().unwrap().hash, hash(2));
    assert!(soon(fetch.next()).await.is_none());
    assert_eq!(soon(discards.next()).await.unwrap().message.block, hash(1));
}

#[testbed::test(multi_thread)]
async fn a_fetch_without_a_stream_says_so() {
    let site = Site::start();
    let blocks = site.bus("both").await.blocks(&fingerprint());
    let mut fetch = blocks.fetch(vec![hash(1)]).await.unwrap();
    let error = soon(fetch.next()).await.unwrap().unwrap_err();
    assert!(matches!(error, PullError::NoStream(_)), "{error}");
    assert!(soon(fetch.next()).await.is_none());
}

#[testbed::test(multi_thread)]
async fn a_worker_receives_the_blocks_that_are_put_for_it() {
    let site = Site::start();
    let (prefill, decode) = (site.bus("prefill").await, site.bus("decode").await);
    let stored = site.blocks(&prefill).await;
    let (to, other) = ("decode-1".parse().unwrap(), "decode-2".parse().unwrap());
    let tap = decode.blocks(&fingerprint()).subscribe(&to).await.unwrap();
    let long = (4 << 20) + 77;
    soon(stored.put(Some(&to), block(1, 5_000))).await.unwrap();
    let mut expected = tap.expect(hashes(1..5));
    soon(stored.put(Some(&other), block(2, 5_000))).await.unwrap();
    soon(stored.put(None, block(3, 5_000))).await.unwrap();
    soon(stored.put(Some(&to), block(4, long))).await.unwrap();
    // Stored before for another worker: it comes all the same.
    soon(stored.put(Some(&to), block(2, 5_000))).await.unwrap();
    let mut came = Vec::new();
    while came.len() < 3 {
        let got = soon(expected.next()).await.unwrap();
        came.push((got.hash, got.bytes.len()));
    }
    assert_eq!(came, [(hash(1), 5_000), (hash(4), long), (hash(2), 5_000)]);
    drop(expected);
    soon(stored.put(Some(&to), block(9, 100))).await.unwrap();
    let mut again = tap.expect(vec![hash(9)]);
    assert_eq!(soon(again.next()).await.unwrap().hash, hash(9));
    assert!(soon(again.next()).await.is_none(), "nothing more is expected");
}

#[testbed::test(multi_thread)]
async fn junk_for_a_worker_is_counted_and_the_next_block_arrives() {
    let site = Site::start();
    let (bus, stranger) = (site.bus("both").await, site.stranger().await);
    let blocks = site.blocks(&bus).await;
    let to = "decode-1".parse().unwrap();
    let tap = blocks.subscribe(&to).await.unwrap();
    let mut expected = tap.expect(hashes(1..3));
    let namespace = fingerprint().namespace();
    for subject in
        [format!("kvx.{to}.{namespace}.junk.0"), format!("kvx.{to}.{namespace}.{}.0", hash(1))]
    {
        stranger.publish(subject, "junk".into()).await.unwrap();
    }
    stranger.flush().await.unwrap();
    eventually("the damaged frames are counted", async || bus.counters().dropped_total() == 2)
        .await;
    soon(blocks.put(Some(&to), block(2, 100))).await.unwrap();
    assert_eq!(soon(expected.next()).await.unwrap().hash, hash(2));
}
