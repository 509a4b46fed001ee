//! The state of a worker's requests beyond the planner: their gateway, the events sent so far, the
//! stage each is in. Plain state under one lock; no I/O.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use chassis::telemetry::Trace;
use protocol::{
    Attempt, BlockHash, Event, GatewayId, Leg, PromptDone, RequestId, RequestKey, Scope, TokenId,
};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// Time for which an ended request is remembered, for repetitions and missed tokens.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Most ended requests that are remembered.
const REMEMBERED_MAX: usize = 4096;
/// Most hand-overs that may arrive before their job.
const EARLY_MAX: usize = 1024;
/// Most steps that a request's next stage links to.
const STEPS_MAX: usize = 32;
/// Most times of tokens, and of preemptions, in a request's span.
const PACES_MAX: usize = 32;

/// The ends of a request's stages so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StageTimes {
    /// The sequence got its pages: the queue stage ended.
    pub(super) admitted: Option<SystemTime>,
    /// The stored blocks arrived.
    pub(super) fetched: Option<SystemTime>,
    /// The first token of this leg was sent.
    pub(super) first_token: Option<SystemTime>,
    /// The first put started.
    pub(super) first_put: Option<SystemTime>,
}

/// The content of a request's spans beyond their times.
#[derive(Clone, Debug, Default)]
pub(super) struct TraceNotes {
    /// Steps since the last stage.
    pub(super) steps: Vec<Trace>,
    /// The blocks that were fetched.
    pub(super) transfer: Transfer,
    /// Numbers of output tokens with the time at which they were reached.
    pub(super) paces: Vec<(u32, SystemTime)>,
    /// Numbers of preemptions with the time at which the sequence had its pages again.
    pub(super) preempted: Vec<(u32, SystemTime)>,
}

impl TraceNotes {
    /// Notes a step that worked on the request.
    pub(super) fn step(&mut self, step: Trace) {
        if self.steps.len() < STEPS_MAX {
            self.steps.push(step);
        }
    }

    /// Notes that the output reached `tokens` tokens.
    pub(super) fn pace(&mut self, tokens: u32, at: SystemTime) {
        if self.paces.len() < PACES_MAX {
            self.paces.push((tokens, at));
        }
    }

    /// Notes that the sequence has been preempted `times` times, unless that is noted.
    pub(super) fn preempted(&mut self, times: u32, at: SystemTime) {
        let noted = self.preempted.last().map_or(0, |(times, _)| *times);
        if times > noted && self.preempted.len() < PACES_MAX {
            self.preempted.push((times, at));
        }
    }
}

/// Blocks that arrived from the store or another worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Transfer {
    /// Their number.
    pub(super) blocks: u32,
    /// Their bytes.
    pub(super) bytes: u64,
    /// The path of the last of them: `listen`, `fetch` or `pull`.
    pub(super) path: Option<&'static str>,
}

/// A request's puts together.
#[derive(Clone, Debug, Default)]
pub(super) struct Upload {
    /// Puts that are not acknowledged yet.
    pub(super) outstanding: u32,
    /// True once no more puts follow.
    pub(super) complete: bool,
    /// Blocks acknowledged.
    pub(super) stored: u32,
    /// Bytes acknowledged.
    pub(super) bytes: u64,
    /// Blocks whose put failed.
    pub(super) failed: Vec<BlockHash>,
}

/// A request on this worker.
#[derive(Debug)]
pub(super) struct Entry {
    /// The request and attempt.
    pub(super) key: RequestKey,
    /// The gateway that gets its events.
    pub(super) gateway: GatewayId,
    /// The part of the work that this worker does.
    pub(super) leg: Leg,
    /// The tenant of its blocks.
    pub(super) scope: Scope,
    /// The parent of its spans.
    pub(super) trace: Trace,
    /// The time at which the gateway sent it.
    pub(super) sent: SystemTime,
    /// The time after which the result has no value.
    pub(super) deadline: Instant,
    /// Tokens of the prompt and the earlier output.
    pub(super) tokens: usize,
    /// Every event sent so far.
    pub(super) log: Vec<Event>,
    /// The ends of its stages.
    pub(super) stage_times: StageTimes,
    /// Its puts.
    pub(super) upload: Upload,
    /// The content of its spans.
    pub(super) trace_notes: TraceNotes,
    /// The token chosen by a prefill leg, and whether the sequence ended with it.
    pub(super) chosen: Option<(Option<TokenId>, bool)>,
    /// The hand-over that a decode leg waits for.
    pub(super) handover: watch::Sender<Option<PromptDone>>,
    /// True if the first event is to carry the times of the stages.
    pub(super) report_stages: bool,
    /// True while the store holds a lease for it.
    pub(super) leased: bool,
    /// The running fetch.
    pub(super) fetch: Option<AbortHandle>,
    /// The time at which it ended.
    pub(super) ended: Option<Instant>,
}

/// The meaning of a job's key on this worker.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KeyStatus {
    /// An unknown request, or a newer attempt of a known one: the older attempt's key.
    New(Option<RequestKey>),
    /// The attempt was accepted before.
    Known,
    /// An attempt that this newer one has replaced.
    Stale(Attempt),
}

/// All requests of a worker.
#[derive(Debug, Default)]
pub(super) struct Registry {
    entries: BTreeMap<RequestId, Entry>,
    early: BTreeMap<RequestKey, (PromptDone, Instant)>,
}

impl Registry {
    /// Returns the meaning of a key.
    pub(super) fn key_status(&self, key: &RequestKey) -> KeyStatus {
        match self.entries.get(&key.request) {
            None => KeyStatus::New(None),
            Some(entry) if entry.key.attempt < key.attempt => KeyStatus::New(Some(entry.key)),
            Some(entry) if entry.key.attempt == key.attempt => KeyStatus::Known,
            Some(entry) => KeyStatus::Stale(entry.key.attempt),
        }
    }

    /// Adds a request, with the hand-over that arrived before it.
    pub(super) fn insert(&mut self, entry: Entry) {
        if let Some((done, _)) = self.early.remove(&entry.key) {
            entry.handover.send_replace(Some(done));
        }
        self.entries.insert(entry.key.request, entry);
    }

    /// Returns the request, if this attempt is the present one.
    pub(super) fn get(&self, key: &RequestKey) -> Option<&Entry> {
        self.entries.get(&key.request).filter(|entry| entry.key == *key)
    }

    /// Returns the request for changes, if this attempt is the present one.
    pub(super) fn get_mut(&mut self, key: &RequestKey) -> Option<&mut Entry> {
        self.entries.get_mut(&key.request).filter(|entry| entry.key == *key)
    }

    /// Removes a request that was not accepted after all.
    pub(super) fn remove(&mut self, key: &RequestKey) {
        if self.get(key).is_some() {
            self.entries.remove(&key.request);
        }
    }

    /// Gives a hand-over to its request, or stores it for a job that has not arrived.
    pub(super) fn hand_over(&mut self, done: PromptDone, now: Instant) {
        let key = done.key;
        match self.key_status(&key) {
            KeyStatus::Known => {
                if let Some(entry) = self.get_mut(&key) {
                    entry.handover.send_replace(Some(done));
                }
            }
            KeyStatus::New(_) if self.early.len() < EARLY_MAX => {
                self.early.insert(key, (done, now));
            }
            KeyStatus::New(_) | KeyStatus::Stale(_) => {}
        }
    }

    /// Ends a request and aborts its fetch; returns false if it had ended or is unknown.
    pub(super) fn end(&mut self, key: &RequestKey, now: Instant) -> bool {
        let Some(entry) = self.get_mut(key) else { return false };
        if let Some(fetch) = entry.fetch.take() {
            fetch.abort();
        }
        entry.ended.replace(now).is_none()
    }

    /// Returns true for a known request that has not ended.
    pub(super) fn runs(&self, key: &RequestKey) -> bool {
        self.get(key).is_some_and(|entry| entry.ended.is_none())
    }

    /// Returns the keys of all requests that have not ended.
    pub(super) fn running(&self) -> Vec<RequestKey> {
        self.entries.values().filter(|entry| entry.ended.is_none()).map(|entry| entry.key).collect()
    }

    /// Forgets ended requests and early hand-overs that are too old or too many.
    pub(super) fn forget(&mut self, now: Instant) {
        let old = |at: Instant| now.duration_since(at) >= REMEMBERED;
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
            stage_times: StageTimes::default(),
            upload: Upload::default(),
            trace_notes: TraceNotes::default(),
            chosen: None,
            handover: watch::Sender::new(None),
            report_stages: false,
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
    fn an_older_attempt_is_stale_and_a_newer_one_replaces() {
        let mut registry = Registry::default();
        registry.insert(entry(key(1, 1)));
        assert_eq!(registry.key_status(&key(1, 0)), KeyStatus::Stale(Attempt(1)));
        assert_eq!(registry.key_status(&key(1, 1)), KeyStatus::Known);
        assert_eq!(registry.key_status(&key(1, 2)), KeyStatus::New(Some(key(1, 1))));
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
        assert_eq!(registry.key_status(&key(1, 0)), KeyStatus::Known);
        registry.forget(now + Duration::from_secs(10));
        assert_eq!(registry.key_status(&key(1, 0)), KeyStatus::New(None));
    }
}
