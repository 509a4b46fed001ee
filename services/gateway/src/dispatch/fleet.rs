//! The workers that serve this gateway's model, as their presence and this gateway know them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bus::PresenceEvent;
use protocol::{FileDigest, WorkerId, WorkerState};
use scheduling::admission::{self, AdmissionLimits, AdmitError, Moment};
use scheduling::route::{Disaggregate, Ledger, Need, Placement, RouteError, WorkerView, place};

pub use self::load::Load;
use self::load::loads;
use crate::dispatch::history::{Change, History};

mod load;

/// The workers that serve one model; cheap to clone.
///
/// While presence is interrupted, the last known state stays, plus the load that was sent since: a stale
/// worker is neither idle nor full.
#[derive(Clone)]
pub struct Fleet {
    files: FileDigest,
    state: Arc<Mutex<FleetState>>,
}

struct FleetState {
    /// Origin of the views' milliseconds.
    started: Instant,
    /// Sorted by worker.
    views: Vec<WorkerView>,
    members: BTreeMap<WorkerId, Member>,
    /// Reason why presence is stale; `None` while it is followed.
    stale_reason: Option<String>,
    /// Workers of other models; each is logged once.
    other_models: BTreeSet<WorkerId>,
    history: History,
}

struct Member {
    /// Its last published state.
    state: WorkerState,
    /// Arrival of that state.
    seen: Instant,
    /// The load of this gateway on it.
    ledger: Ledger,
}

/// A snapshot of the fleet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FleetView {
    /// Each worker's last state and its age, sorted by worker.
    pub workers: Vec<(WorkerState, Duration)>,
    /// Number of workers that serve other model files.
    pub other_models: usize,
    /// Reason why presence is stale; `None` while it is followed.
    pub stale_reason: Option<String>,
    /// Recent changes, oldest first.
    pub changes: Vec<Change>,
}

impl Fleet {
    /// Returns a fleet without workers. Only workers that serve exactly `files` will be used.
    pub fn new(files: FileDigest) -> Self {
        let stale_reason = Some("presence of workers is not followed yet".to_owned());
        Self { files, state: Arc::new(Mutex::new(FleetState::new(stale_reason))) }
    }

    fn lock(&self) -> MutexGuard<'_, FleetState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies a presence event; returns the worker whose process is gone, if one is.
    pub fn apply(&self, event: PresenceEvent) -> Option<WorkerId> {
        let mut fleet = self.lock();
        match event {
            PresenceEvent::Up(state) if state.files == self.files => fleet.up(*state),
            PresenceEvent::Up(state) => {
                fleet.add_other_model(&state);
                None
            }
            PresenceEvent::Gone(worker) => {
                fleet.other_models.remove(&worker);
                fleet.remove(&worker).then_some(worker)
            }
            PresenceEvent::Synced => {
                fleet.stale_reason = None;
                None
            }
            PresenceEvent::Interrupted { why } => {
                fleet.stale_reason = Some(why);
                None
            }
        }
    }

    /// Removes a worker that does not respond, until it publishes its presence again. Returns true if it
    /// was known.
    pub fn gone(&self, worker: &WorkerId) -> bool {
        self.lock().remove(worker)
    }

    /// Returns a snapshot.
    pub fn view(&self) -> FleetView {
        let (fleet, now) = (self.lock(), Instant::now());
        let workers = fleet
            .members
            .values()
            .map(|member| (member.state.clone(), now.duration_since(member.seen)))
            .collect();
        FleetView {
            workers,
            other_models: fleet.other_models.len(),
            stale_reason: fleet.stale_reason.clone(),
            changes: fleet.history.changes(),
        }
    }

    /// Decides whether one more generation may start, `left_ms` before its deadline.
    pub fn admit(
        &self,
        need: &Need,
        inflight: usize,
        left_ms: u64,
        limits: &AdmissionLimits,
    ) -> Result<(), AdmitError> {
        let fleet = self.lock();
        let moment = Moment { now_ms: fleet.now_ms(), left_ms };
        admission::admit(need, &fleet.views, inflight, moment, limits)
    }

    /// Places a request, and counts its load until it is [`release`](Self::release)d or the worker's
    /// own state includes it.
    pub fn place(
        &self,
        need: &Need,
        avoid: &BTreeSet<WorkerId>,
        policy: Disaggregate,
    ) -> Result<(Placement, Vec<Load>), RouteError> {
        let mut fleet = self.lock();
        let placement = place(need, &fleet.views, avoid, policy, fleet.now_ms())?;
        let loads = loads(&placement.chosen().choice, need);
        for load in &loads {
            fleet.count(load);
        }
        Ok((placement, loads))
    }

    /// Adds a load to a worker.
    pub fn count(&self, load: &Load) {
        self.lock().count(load);
    }

    /// Removes a load whose work is done or given up.
    pub fn release(&self, load: &Load) {
        self.lock().release(load);
    }

    /// Returns the reason why no generation can be placed now.
    pub fn readiness(&self) -> Result<(), String> {
        let fleet = self.lock();
        if fleet.views.iter().any(|view| view.ready) {
            return Ok(());
        }
        Err(match (&fleet.stale_reason, fleet.views.len(), fleet.other_models.len()) {
            (Some(why), ..) => why.clone(),
            (None, 0, 0) => "no worker is there".to_owned(),
            (None, 0, others) => format!("no worker serves this model; {others} serve others"),
            (None, workers, _) => format!("none of {workers} workers is ready"),
        })
    }

    /// Returns the longest sequence that a ready worker holds.
    pub fn tokens_max(&self) -> Option<u32> {
        Some(admission::tokens_max(&self.lock().views)).filter(|tokens| *tokens > 0)
    }

    /// Returns the time after which a refused client may try again.
    pub fn retry_after(&self) -> Duration {
        let fleet = self.lock();
        let wait_ms = admission::retry_after_ms(&fleet.views, fleet.now_ms());
        Duration::from_millis(u64::from(wait_ms))
    }
}

impl FleetState {
    fn new(stale_reason: Option<String>) -> Self {
        Self {
            started: Instant::now(),
            views: Vec::new(),
            members: BTreeMap::new(),
            stale_reason,
            other_models: BTreeSet::new(),
            history: History::default(),
        }
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Applies a worker's state; returns the worker if another process of that name was known.
    fn up(&mut self, state: WorkerState) -> Option<WorkerId> {
        let (now, now_ms) = (Instant::now(), self.now_ms());
        let worker = state.worker.clone();
        let before = self.members.get(&worker).map(|member| &member.state);
        self.history.record(before, &state, SystemTime::now());
        let restarted = before.is_some_and(|before| before.epoch != state.epoch);
        let member = self.members.entry(worker.clone());
        let member = member.or_insert_with(|| Member {
            state: state.clone(),
            seen: now,
            ledger: Ledger::default(),
        });
        if restarted {
            member.ledger.clear();
        }
        let pending = member.ledger.unreported(&state, now_ms);
        let mut view = WorkerView::new(&state, pending, now_ms);
        (member.state, member.seen) = (state, now);
        if !view.is_measured() {
            view.assume(self.views.iter().filter(|other| other.worker != worker));
        }
        match self.find(&worker) {
            Ok(at) => self.views[at] = view,
            Err(at) => {
                tracing::info!(%worker, role = view.role.as_str(), "worker joined");
                self.views.insert(at, view);
            }
        }
        restarted.then_some(worker)
    }

    fn add_other_model(&mut self, state: &WorkerState) {
        if self.other_models.insert(state.worker.clone()) {
            let (worker, model) = (&state.worker, &state.model);
            tracing::warn!(%worker, model, "ignored a worker that serves other model files");
        }
    }

    fn remove(&mut self, worker: &WorkerId) -> bool {
        self.members.remove(worker);
        let found = self.find(worker);
        if let Ok(at) = found {
            tracing::info!(%worker, "worker left");
            self.history.gone(worker, SystemTime::now());
            self.views.remove(at);
        }
        found.is_ok()
    }

    fn find(&self, worker: &WorkerId) -> Result<usize, usize> {
        self.views.binary_search_by(|view| view.worker.cmp(worker))
    }

    fn count(&mut self, load: &Load) {
        let now_ms = self.now_ms();
        let Some(member) = self.members.get_mut(&load.worker) else { return };
        member.ledger.add(load.pending, now_ms);
        if let Ok(at) = self.find(&load.worker) {
            self.views[at].add(load.pending, now_ms);
        }
    }

    /// Removes what is left of a load; nothing if the process that had it is gone.
    fn release(&mut self, load: &Load) {
        let now_ms = self.now_ms();
        let Some(member) = self.members.get_mut(&load.worker) else { return };
        let Some(left) = member.ledger.remove(load.pending) else { return };
        if let Ok(at) = self.find(&load.worker) {
            self.views[at].remove(left, now_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::Role;
    use testbed::idle_worker as state;

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
    fn who_has_measured_nothing_is_taken_for_another_of_the_fleet() {
        use protocol::{Speed, StepCost};

        let prefill = StepCost { item_us: 100.0, steps: 50, ..StepCost::default() };
        let speed = Speed { prefill, decode: StepCost::default() };
        let fleet = fleet(vec![
            WorkerState { speed, ..state("p1", Role::Prefill) },
            state("p2", Role::Prefill),
        ]);
        let state = fleet.lock();
        assert_eq!(state.views[1].speed.prefill.item_us, 100.0);
        assert_eq!(state.views[0].speed.decode, state.views[1].speed.decode);
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
        use crate::dispatch::history::ChangeKind;

        let fleet = fleet(vec![state("p", Role::Prefill), state("d", Role::Decode)]);
        let busy = WorkerState { running_sequences: 2, ..state("d", Role::Decode) };
        fleet.apply(PresenceEvent::Up(Box::new(busy.clone())));
        let other = WorkerState { files: FileDigest([2; 32]), ..state("x", Role::Prefill) };
        fleet.apply(PresenceEvent::Up(Box::new(other)));
        fleet.apply(PresenceEvent::Gone("p".parse().unwrap()));
        fleet.apply(PresenceEvent::Interrupted { why: "no connection".to_owned() });
        let view = fleet.view();
        let [(state, age)] = &view.workers[..] else { panic!("{view:?}") };
        assert!(*state == busy && *age < Duration::from_secs(5), "{view:?}");
        assert_eq!((view.other_models, view.stale_reason.as_deref()), (1, Some("no connection")));
        let kinds: Vec<ChangeKind> = view.changes.iter().map(|change| change.kind).collect();
        assert_eq!(
            kinds,
            [ChangeKind::Up(Role::Prefill), ChangeKind::Up(Role::Decode), ChangeKind::Gone]
        );
    }
}
