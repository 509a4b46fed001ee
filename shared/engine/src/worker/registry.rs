//! What a worker knows about its requests beyond the planner: whom to tell, what was told, which
//! stage each is in. Plain state under one lock; no I/O.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use chassis::telemetry::Trace;
use protocol::{
    Attempt, BlockHash, Event, GatewayId, Leg, PromptDone, RequestId, RequestKey, Scope, TokenId,
};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// How long an ended request is remembered, for repetitions and missed tokens.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Ended requests remembered at most.
const REMEMBERED_MAX: usize = 4096;
/// Hand-overs that may arrive before their job.
const EARLY_MAX: usize = 1024;

/// Ends of a request's stages so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Marks {
    /// Pages were given: the queue stage is over.
    pub(super) admitted: Option<SystemTime>,
    /// Stored blocks are in.
    pub(super) fetched: Option<SystemTime>,
    /// The first token of this leg was sent.
    pub(super) first_token: Option<SystemTime>,
    /// The first block went to the store.
    pub(super) first_put: Option<SystemTime>,
}

/// Steps that a request's next stage links to, at most.
const STEPS_MAX: usize = 32;
/// Times of tokens that a request's span tells, at most.
const PACES_MAX: usize = 32;

/// What a request's spans tell beyond their times.
#[derive(Clone, Debug, Default)]
pub(super) struct Notes {
    /// Steps since the last stage.
    pub(super) steps: Vec<Trace>,
    /// How the blocks that were fetched came.
    pub(super) moved: Moved,
    /// When how many tokens were known.
    pub(super) paces: Vec<(u32, SystemTime)>,
    /// When pages that were taken were here again, for the `n`-th time.
    pub(super) preempted: Vec<(u32, SystemTime)>,
}

impl Notes {
    /// A step worked on the request.
    pub(super) fn step(&mut self, step: Trace) {
        if self.steps.len() < STEPS_MAX {
            self.steps.push(step);
        }
    }

    /// So many tokens are known.
    pub(super) fn pace(&mut self, tokens: u32, at: SystemTime) {
        if self.paces.len() < PACES_MAX {
            self.paces.push((tokens, at));
        }
    }

    /// The sequence has been preempted so often.
    pub(super) fn preempted(&mut self, times: u32, at: SystemTime) {
        let told = self.preempted.last().map_or(0, |(times, _)| *times);
        if told < times && self.preempted.len() < PACES_MAX {
            self.preempted.push((times, at));
        }
    }
}

/// Blocks that came from elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moved {
    /// How many.
    pub(super) blocks: u32,
    /// Their bytes.
    pub(super) bytes: u64,
    /// The way they came last: `listen`, `fetch` or `pull`.
    pub(super) path: Option<&'static str>,
}

/// Blocks of a request on their way into the store.
#[derive(Clone, Debug, Default)]
pub(super) struct Puts {
    /// Not acknowledged yet.
    pub(super) outstanding: u32,
    /// No more will come.
    pub(super) complete: bool,
    /// Acknowledged.
    pub(super) stored: u32,
    /// Bytes acknowledged.
    pub(super) bytes: u64,
    /// Lost.
    pub(super) unstored: Vec<BlockHash>,
}

/// A request on this worker.
#[derive(Debug)]
pub(super) struct Entry {
    /// Which try.
    pub(super) key: RequestKey,
    /// Whom to tell.
    pub(super) gateway: GatewayId,
    /// Which part of the work.
    pub(super) leg: Leg,
    /// Whose blocks.
    pub(super) scope: Scope,
    /// Parent of its spans.
    pub(super) trace: Trace,
    /// When the gateway sent it.
    pub(super) sent: SystemTime,
    /// When it becomes worthless.
    pub(super) deadline: Instant,
    /// Prompt and earlier output.
    pub(super) tokens: usize,
    /// Everything told so far.
    pub(super) log: Vec<Event>,
    /// Its stages.
    pub(super) marks: Marks,
    /// Its blocks.
    pub(super) puts: Puts,
    /// What its spans tell.
    pub(super) notes: Notes,
    /// The token chosen by a prefill leg, and whether the sequence ended with it.
    pub(super) chosen: Option<(Option<TokenId>, bool)>,
    /// The hand-over that a decode leg waits for.
    pub(super) handover: watch::Sender<Option<PromptDone>>,
    /// Whether the gateway wants to know how long its stages took.
    pub(super) tell_stages: bool,
    /// Whether the store holds a lease for it.
    pub(super) leased: bool,
    /// The fetch under way.
    pub(super) fetch: Option<AbortHandle>,
    /// When it was over.
    pub(super) ended: Option<Instant>,
}

/// What a job's key means here.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Not seen before, or a newer attempt of something known: that older attempt's key.
    New(Option<RequestKey>),
    /// Taken already.
    Known,
    /// Superseded by this attempt.
    Fenced(Attempt),
}

/// All requests of a worker.
#[derive(Debug, Default)]
pub(super) struct Registry {
    entries: BTreeMap<RequestId, Entry>,
    early: BTreeMap<RequestKey, (PromptDone, Instant)>,
}

impl Registry {
    /// What a key means.
    pub(super) fn standing(&self, key: &RequestKey) -> Standing {
        match self.entries.get(&key.request) {
            None => Standing::New(None),
            Some(entry) if entry.key.attempt < key.attempt => Standing::New(Some(entry.key)),
            Some(entry) if entry.key.attempt == key.attempt => Standing::Known,
            Some(entry) => Standing::Fenced(entry.key.attempt),
        }
    }

    /// Takes a request in; a hand-over that came before it is given to it.
    pub(super) fn insert(&mut self, entry: Entry) {
        if let Some((done, _)) = self.early.remove(&entry.key) {
            entry.handover.send_replace(Some(done));
        }
        self.entries.insert(entry.key.request, entry);
    }

    /// The request, if this attempt is the present one.
    pub(super) fn get(&self, key: &RequestKey) -> Option<&Entry> {
        self.entries.get(&key.request).filter(|entry| entry.key == *key)
    }

    /// The same, to change.
    pub(super) fn get_mut(&mut self, key: &RequestKey) -> Option<&mut Entry> {
        self.entries.get_mut(&key.request).filter(|entry| entry.key == *key)
    }

    /// Takes a request out again that was not accepted after all.
    pub(super) fn remove(&mut self, key: &RequestKey) {
        if self.get(key).is_some() {
            self.entries.remove(&key.request);
        }
    }

    /// Gives a hand-over to its request, or keeps it for a job still under way.
    pub(super) fn hand_over(&mut self, done: PromptDone, now: Instant) {
        let key = done.key;
        match self.standing(&key) {
            Standing::Known => {
                if let Some(entry) = self.get_mut(&key) {
                    entry.handover.send_replace(Some(done));
                }
            }
            Standing::New(_) if self.early.len() < EARLY_MAX => {
                self.early.insert(key, (done, now));
            }
            Standing::New(_) | Standing::Fenced(_) => {}
        }
    }

    /// Marks a request as over, once; stops its fetch. False when it was over or is not here.
    pub(super) fn end(&mut self, key: &RequestKey, now: Instant) -> bool {
        let Some(entry) = self.get_mut(key) else { return false };
        if let Some(fetch) = entry.fetch.take() {
            fetch.abort();
        }
        entry.ended.replace(now).is_none()
    }

    /// True for a request that is here and not over.
    pub(super) fn runs(&self, key: &RequestKey) -> bool {
        self.get(key).is_some_and(|entry| entry.ended.is_none())
    }

    /// Keys of all requests that are not over.
    pub(super) fn running(&self) -> Vec<RequestKey> {
        self.entries.values().filter(|entry| entry.ended.is_none()).map(|entry| entry.key).collect()
    }

    /// Forgets what nobody will ask for any more.
    pub(super) fn forget(&mut self, now: Instant) {
        let old = |at: Instant| REMEMBERED <= now.duration_since(at);
        self.entries.retain(|_, entry| !entry.ended.is_some_and(old));
        self.early.retain(|_, (_, at)| !old(*at));
        let mut ended: Vec<(Instant, RequestId)> = self
            .entries
            .iter()
            .filter_map(|(request, entry)| Some((entry.ended?, *request)))
            .collect();
        ended.sort_unstable();
        for (_, request) in ended.iter().rev().skip(REMEMBERED_MAX) {
            self.entries.remove(request);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(request: u128, attempt: u32) -> RequestKey {
        RequestKey { request: RequestId(request), attempt: Attempt(attempt) }
    }

    fn entry(key: RequestKey) -> Entry {
        Entry {
            key,
            gateway: "gw".parse().unwrap(),
            leg: Leg::Whole,
            scope: Scope::shared(),
            trace: Trace::off(),
            sent: SystemTime::UNIX_EPOCH,
            deadline: Instant::now(),
            tokens: 1,
            log: Vec::new(),
            marks: Marks::default(),
            puts: Puts::default(),
            notes: Notes::default(),
            chosen: None,
            handover: watch::Sender::new(None),
            tell_stages: false,
            leased: false,
            fetch: None,
            ended: None,
        }
    }

    fn done(key: RequestKey) -> PromptDone {
        let prefill = "p".parse().unwrap();
        PromptDone { key, prefill, first_token: Some(3), finished: false, unstored: Vec::new() }
    }

    #[test]
    fn an_older_attempt_is_fenced_and_a_newer_one_replaces() {
        let mut registry = Registry::default();
        registry.insert(entry(key(1, 1)));
        assert_eq!(registry.standing(&key(1, 0)), Standing::Fenced(Attempt(1)));
        assert_eq!(registry.standing(&key(1, 1)), Standing::Known);
        assert_eq!(registry.standing(&key(1, 2)), Standing::New(Some(key(1, 1))));
        assert!(registry.get(&key(1, 0)).is_none());
    }

    #[test]
    fn a_hand_over_may_come_before_its_job() {
        let mut registry = Registry::default();
        registry.hand_over(done(key(1, 0)), Instant::now());
        registry.insert(entry(key(1, 0)));
        let waiting = registry.get(&key(1, 0)).unwrap().handover.subscribe();
        assert_eq!(waiting.borrow().as_ref(), Some(&done(key(1, 0))));
    }

    #[test]
    fn ending_counts_once_and_is_forgotten_later() {
        let mut registry = Registry::default();
        let now = Instant::now();
        registry.insert(entry(key(1, 0)));
        assert!(registry.runs(&key(1, 0)));
        assert!(registry.end(&key(1, 0), now));
        assert!(!registry.end(&key(1, 0), now));
        registry.forget(now + Duration::from_secs(9));
        assert_eq!(registry.standing(&key(1, 0)), Standing::Known);
        registry.forget(now + Duration::from_secs(10));
        assert_eq!(registry.standing(&key(1, 0)), Standing::New(None));
    }
}
