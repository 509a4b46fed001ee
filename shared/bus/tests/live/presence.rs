//! Workers that come, go, and fall silent.

use bus::{PresenceEvent, Watch};

use crate::site::{Site, soon, state, worker};

async fn synced(watch: &mut Watch) -> Vec<PresenceEvent> {
    let mut seen = Vec::new();
    loop {
        match soon(watch.next()).await {
            PresenceEvent::Synced => return seen,
            event => seen.push(event),
        }
    }
}

#[testbed::test(multi_thread)]
async fn a_worker_is_up_changes_and_withdraws() {
    let site = Site::start();
    let (seeing, saying) = (site.bus("gateway").await, site.bus("decode").await);
    let mut watch = seeing.presence().watch();
    assert_eq!(synced(&mut watch).await, []);
    let mut state = state("decode-1");
    saying.presence().announce(&state).await.unwrap();
    assert_eq!(soon(watch.next()).await, PresenceEvent::Up(Box::new(state.clone())));
    state.running_sequences += 1;
    saying.presence().announce(&state).await.unwrap();
    assert_eq!(soon(watch.next()).await, PresenceEvent::Up(Box::new(state.clone())));
    saying.presence().withdraw(&state.worker).await.unwrap();
    assert_eq!(soon(watch.next()).await, PresenceEvent::Gone(state.worker));
}

#[testbed::test(multi_thread)]
async fn a_late_watch_receives_the_workers_that_are_there() {
    let site = Site::start();
    let bus = site.bus("decode").await;
    for name in ["a", "b", "c"] {
        bus.presence().announce(&state(name)).await.unwrap();
    }
    bus.presence().withdraw(&worker("b")).await.unwrap();
    let seen = synced(&mut bus.presence().watch()).await;
    let up = |name| PresenceEvent::Up(Box::new(state(name)));
    assert_eq!(seen, [up("a"), up("c")]);
}

#[testbed::test(multi_thread)]
async fn a_silent_worker_is_gone() {
    let site = Site::start();
    let bus = site.bus("decode").await;
    let mut watch = bus.presence().watch();
    synced(&mut watch).await;
    bus.presence().announce(&state("silent")).await.unwrap();
    assert!(matches!(soon(watch.next()).await, PresenceEvent::Up(_)));
    assert_eq!(soon(watch.next()).await, PresenceEvent::Gone(worker("silent")));
}
