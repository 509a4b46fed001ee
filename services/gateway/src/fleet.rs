//! The workers that serve this gateway's model, as their presence and this gateway know them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bus::PresenceEvent;
use protocol::{BLOCK_TOKENS, FileDigest, WorkerId, WorkerState};
use scheduling::admission::{self, AdmissionLimits, AdmitError};
use scheduling::route::{
    Choice, Disaggregate, Need, Pending, Placement, RouteError, WorkerView, place,
};

use crate::history::{Change, History};

/// A job sent this shortly before a worker's state arrived is not in that state yet.
const PENDING_FOR: Duration = Duration::from_millis(100);

/// What is known of the workers; cheap to clone.
///
/// While presence is not seen, the last known state stays, with what was sent since on top: stale
/// means unknown, neither idle nor full.
#[derive(Clone)]
pub struct Fleet {
    files: FileDigest,
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    /// Sorted by worker.
    views: Vec<WorkerView>,
    members: BTreeMap<WorkerId, Member>,
    /// Why nothing is seen; `None` while presence is followed.
    unseen: Option<String>,
    /// Workers of another model, told once each.
    strangers: BTreeSet<WorkerId>,
    history: History,
}

struct Member {
    /// What it said last.
    state: WorkerState,
    /// When it said so.
    seen: Instant,
    sent: VecDeque<(Instant, Pending)>,
}

/// The fleet as people want to see it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FleetView {
    /// What each worker said last, and how long ago, sorted by worker.
    pub workers: Vec<(WorkerState, Duration)>,
    /// Workers that are there and serve other model files.
    pub strangers: usize,
    /// Why nothing new is seen; `None` while presence is followed.
    pub unseen: Option<String>,
    /// What happened lately, oldest first.
    pub changes: Vec<Change>,
}

impl Fleet {
    /// No workers yet. Only those that serve exactly `files` will be used.
    pub fn new(files: FileDigest) -> Self {
        let unseen = Some("presence of workers is not followed yet".to_owned());
        Self { files, known: Arc::new(Mutex::new(Known { unseen, ..Known::default() })) }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what presence says; returns the worker whose process is gone, if one is.
    pub fn apply(&self, event: PresenceEvent) -> Option<WorkerId> {
        let mut known = self.known();
        match event {
            PresenceEvent::Up(state) if state.files == self.files => known.up(*state),
            PresenceEvent::Up(state) => {
                known.stranger(&state);
                None
            }
            PresenceEvent::Gone(worker) => {
                known.strangers.remove(&worker);
                known.remove(&worker).then_some(worker)
            }
            PresenceEvent::Synced => {
                known.unseen = None;
                None
            }
            PresenceEvent::Interrupted { why } => {
                known.unseen = Some(why);
                None
            }
        }
    }

    /// Nobody answers for this worker: it is gone until it says otherwise. True if it was known.
    pub fn gone(&self, worker: &WorkerId) -> bool {
        self.known().remove(worker)
    }

    /// Everybody and what happened lately.
    pub fn view(&self) -> FleetView {
        let (known, now) = (self.known(), Instant::now());
        let told = |member: &Member| (member.state.clone(), now.duration_since(member.seen));
        FleetView {
            workers: known.members.values().map(told).collect(),
            strangers: known.strangers.len(),
            unseen: known.unseen.clone(),
            changes: known.history.changes(),
        }
    }

    /// Whether one more generation may start, `left_ms` before its deadline.
    pub fn admit(
        &self,
        need: &Need,
        inflight: usize,
        left_ms: u64,
        limits: &AdmissionLimits,
    ) -> Result<(), AdmitError> {
        admission::admit(need, &self.known().views, inflight, left_ms, limits)
    }

    /// Chooses where a request runs, and counts it there until it is [`release`](Self::release)d
    /// or the worker's own state says it.
    pub fn place(
        &self,
        need: &Need,
        avoid: &BTreeSet<WorkerId>,
        policy: Disaggregate,
    ) -> Result<(Placement, Vec<Load>), RouteError> {
        let mut known = self.known();
        let placement = place(need, &known.views, avoid, policy)?;
        let loads = loads(&placement.chosen().choice, need);
        for load in &loads {
            known.count(load);
        }
        Ok((placement, loads))
    }

    /// Counts more work on a worker.
    pub fn count(&self, load: &Load) {
        self.known().count(load);
    }

    /// Takes back what was counted: that work is done or given up.
    pub fn release(&self, load: &Load) {
        self.known().release(load);
    }

    /// Whether a generation could be placed now; if not, why.
    pub fn readiness(&self) -> Result<(), String> {
        let known = self.known();
        if known.views.iter().any(|view| view.ready) {
            return Ok(());
        }
        Err(match (&known.unseen, known.views.len(), known.strangers.len()) {
            (Some(why), ..) => why.clone(),
            (None, 0, 0) => "no worker is there".to_owned(),
            (None, 0, others) => format!("no worker serves this model; {others} serve others"),
            (None, workers, _) => format!("none of {workers} workers is ready"),
        })
    }

    /// The longest sequence that a ready worker holds.
    pub fn tokens_max(&self) -> Option<u32> {
        Some(admission::tokens_max(&self.known().views)).filter(|tokens| 0 < *tokens)
    }

    /// When it makes sense to come back after a refusal.
    pub fn retry_after(&self) -> Duration {
        let wait_ms = admission::retry_after_ms(&self.known().views);
        Duration::from_millis(u64::from(wait_ms))
    }
}

impl Known {
    /// Returns the worker if another process of that name was known.
    fn up(&mut self, state: WorkerState) -> Option<WorkerId> {
        let now = Instant::now();
        let worker = state.worker.clone();
        let before = self.members.get(&worker).map(|member| &member.state);
        self.history.seen(before, &state, SystemTime::now());
        let restarted = before.is_some_and(|before| before.epoch != state.epoch);
        let fresh = || Member { state: state.clone(), seen: now, sent: VecDeque::new() };
        let member = self.members.entry(worker.clone()).or_insert_with(fresh);
        if restarted {
            member.sent.clear();
        }
        member.sent.retain(|(at, _)| now.duration_since(*at) < PENDING_FOR);
        let pending = member.sent.iter().fold(Pending::default(), |sum, (_, sent)| Pending {
            prefills: sum.prefills + sent.prefills,
            decodes: sum.decodes + sent.decodes,
            prompt_tokens: sum.prompt_tokens + sent.prompt_tokens,
            pages: sum.pages + sent.pages,
        });
        let view = WorkerView::new(&state, pending);
        (member.state, member.seen) = (state, now);
        match self.find(&worker) {
            Ok(at) => self.views[at] = view,
            Err(at) => {
                tracing::info!(%worker, role = view.role.as_str(), "worker is up");
                self.views.insert(at, view);
            }
        }
        restarted.then_some(worker)
    }

    fn stranger(&mut self, state: &WorkerState) {
        if self.strangers.insert(state.worker.clone()) {
            let (worker, model) = (&state.worker, &state.model);
            tracing::warn!(%worker, model, "worker serves other model files than this gateway");
        }
    }

    fn remove(&mut self, worker: &WorkerId) -> bool {
        self.members.remove(worker);
        let found = self.find(worker);
        if let Ok(at) = found {
            tracing::info!(%worker, "worker is gone");
            self.history.gone(worker, SystemTime::now());
            self.views.remove(at);
        }
        found.is_ok()
    }

    fn find(&self, worker: &WorkerId) -> Result<usize, usize> {
        self.views.binary_search_by(|view| view.worker.cmp(worker))
    }

    fn count(&mut self, load: &Load) {
        let now = Instant::now();
        if let Some(member) = self.members.get_mut(&load.worker) {
            while member.sent.front().is_some_and(|(at, _)| PENDING_FOR < now.duration_since(*at)) {
                member.sent.pop_front();
            }
            member.sent.push_back((now, load.pending));
        }
        if let Ok(at) = self.find(&load.worker) {
            self.views[at].add(load.pending);
        }
    }

    fn release(&mut self, load: &Load) {
        if let Some(member) = self.members.get_mut(&load.worker)
            && let Some(at) = member.sent.iter().position(|(_, sent)| *sent == load.pending)
        {
            member.sent.remove(at);
        }
        if let Ok(at) = self.find(&load.worker) {
            self.views[at].remove(load.pending);
        }
    }
}

/// Work that this gateway gave to a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// To whom.
    pub worker: WorkerId,
    /// How much.
    pub pending: Pending,
}

impl Load {
    /// What is left of a load when its prompt is computed: it generates, if it is to.
    pub fn after_prompt(&self, generates: bool) -> Option<Self> {
        let pages = self.pending.pages;
        let pending = Pending { decodes: 1, pages, ..Pending::default() };
        generates.then(|| Self { worker: self.worker.clone(), pending })
    }
}

fn loads(choice: &Choice, need: &Need) -> Vec<Load> {
    let pages = need.tokens.div_ceil(BLOCK_TOKENS as u32) + 1;
    let prompt_tokens = u64::from(need.tokens);
    let prefill = Pending { prefills: 1, prompt_tokens, pages, decodes: 0 };
    let decode = Pending { decodes: 1, pages, ..Pending::default() };
    let load = |worker: &WorkerId, pending| Load { worker: worker.clone(), pending };
    match choice {
        Choice::Split { prefill: first, decode: then } => {
            vec![load(first, prefill), load(then, decode)]
        }
        Choice::Whole { worker } => vec![load(worker, prefill)],
    }
}

/// A worker that is ready and does nothing.
#[cfg(test)]
pub(crate) fn test_state(name: &str, role: protocol::Role) -> WorkerState {
    use protocol::{ModelFingerprint, PoolState, Speed};

    let files = FileDigest([1; 32]);
    WorkerState {
        worker: name.parse().unwrap(),
        role,
        prefill_share: 0.5,
        epoch: 1,
        ready: true,
        draining: false,
        model: "tiny".to_owned(),
        files,
        fingerprint: ModelFingerprint::new(files, "f16"),
        context_tokens: 2_048,
        device: "cpu".to_owned(),
        queued_sequences: 0,
        queued_tokens: 0,
        running_sequences: 0,
        sequences_max: 8,
        pool: PoolState { free: 128, total: 128, ..PoolState::default() },
        speed: Speed::default(),
        health_address: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use protocol::Role;

    use super::test_state as state;
    use super::*;

    const NEED: Need = Need { tokens: 64, cached_tokens: 0, output_tokens: 8 };

    fn fleet(states: Vec<WorkerState>) -> Fleet {
        let fleet = Fleet::new(FileDigest([1; 32]));
        for state in states {
            fleet.apply(PresenceEvent::Up(Box::new(state)));
        }
        fleet.apply(PresenceEvent::Synced);
        fleet
    }

    fn chosen(fleet: &Fleet) -> String {
        let placed = fleet.place(&NEED, &BTreeSet::new(), Disaggregate::Always).unwrap();
        placed.0.chosen().choice.to_string()
    }

    #[test]
    fn what_was_sent_counts_before_presence_says_so() {
        let roles = [("p1", Role::Prefill), ("p2", Role::Prefill), ("d", Role::Decode)];
        let fleet = fleet(roles.map(|(name, role)| state(name, role)).to_vec());
        assert_eq!([chosen(&fleet), chosen(&fleet), chosen(&fleet)], ["p1>d", "p2>d", "p1>d"]);
    }

    #[test]
    fn what_is_done_does_not_count_any_more() {
        let roles = [("p1", Role::Prefill), ("p2", Role::Prefill), ("d", Role::Decode)];
        let fleet = fleet(roles.map(|(name, role)| state(name, role)).to_vec());
        let limits = AdmissionLimits { inflight_max: 1_000_000, queue_sequences_max: 64 };
        for _ in 0..1_000 {
            fleet.admit(&NEED, 0, 60_000, &limits).unwrap();
            let placed = fleet.place(&NEED, &BTreeSet::new(), Disaggregate::Always).unwrap();
            assert_eq!(placed.0.chosen().choice.to_string(), "p1>d");
            placed.1.iter().for_each(|load| fleet.release(load));
        }
    }

    #[test]
    fn readiness_says_why_not() {
        let fleet = Fleet::new(FileDigest([1; 32]));
        assert!(fleet.readiness().unwrap_err().contains("presence"));
        fleet.apply(PresenceEvent::Synced);
        assert_eq!(fleet.readiness(), Err("no worker is there".to_owned()));
        let other = WorkerState { files: FileDigest([2; 32]), ..state("x", Role::Prefill) };
        fleet.apply(PresenceEvent::Up(Box::new(other)));
        assert!(fleet.readiness().unwrap_err().contains("no worker serves this model"));
        let loading = WorkerState { ready: false, ..state("p", Role::Prefill) };
        fleet.apply(PresenceEvent::Up(Box::new(loading)));
        assert_eq!(fleet.readiness(), Err("none of 1 workers is ready".to_owned()));
        fleet.apply(PresenceEvent::Up(Box::new(state("p", Role::Prefill))));
        assert_eq!((fleet.readiness(), fleet.tokens_max()), (Ok(()), Some(2_048)));
    }

    #[test]
    fn a_restart_under_the_same_name_is_a_death() {
        let fleet = fleet(vec![state("p", Role::Prefill)]);
        let again = WorkerState { epoch: 2, ..state("p", Role::Prefill) };
        let gone = fleet.apply(PresenceEvent::Up(Box::new(again.clone())));
        assert_eq!(gone, Some(again.worker.clone()));
        assert_eq!(fleet.apply(PresenceEvent::Up(Box::new(again.clone()))), None);
        assert_eq!(fleet.apply(PresenceEvent::Gone(again.worker.clone())), Some(again.worker));
        assert!(fleet.readiness().is_err());
    }

    #[test]
    fn stale_workers_stay_usable_and_gone_ones_do_not() {
        let fleet = fleet(vec![state("p", Role::Prefill)]);
        fleet.apply(PresenceEvent::Interrupted { why: "no connection".to_owned() });
        assert_eq!(chosen(&fleet), "p");
        assert!(fleet.gone(&"p".parse().unwrap()));
        assert_eq!(fleet.readiness(), Err("no connection".to_owned()));
    }

    #[test]
    fn the_view_tells_what_everybody_said_last_and_what_happened() {
        use crate::history::What;

        let fleet = fleet(vec![state("p", Role::Prefill), state("d", Role::Decode)]);
        let busy = WorkerState { running_sequences: 2, ..state("d", Role::Decode) };
        fleet.apply(PresenceEvent::Up(Box::new(busy.clone())));
        let other = WorkerState { files: FileDigest([2; 32]), ..state("x", Role::Prefill) };
        fleet.apply(PresenceEvent::Up(Box::new(other)));
        fleet.apply(PresenceEvent::Gone("p".parse().unwrap()));
        fleet.apply(PresenceEvent::Interrupted { why: "no connection".to_owned() });
        let view = fleet.view();
        let [(told, age)] = &view.workers[..] else { panic!("{view:?}") };
        assert!(*told == busy && *age < Duration::from_secs(5), "{view:?}");
        assert_eq!((view.strangers, view.unseen.as_deref()), (1, Some("no connection")));
        let what: Vec<What> = view.changes.iter().map(|change| change.what).collect();
        assert_eq!(what, [What::Up(Role::Prefill), What::Up(Role::Decode), What::Gone]);
    }
}
