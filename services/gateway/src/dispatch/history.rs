//! The recent changes in the fleet: a bounded list, oldest first.

use std::collections::{BTreeMap, VecDeque};
use std::time::SystemTime;

use protocol::{Role, WorkerId, WorkerState};

/// Most changes in the list.
pub const CHANGES_MAX: usize = 32;
/// Smallest change of the prefill share that is listed; smaller ones are routine.
const SHARE_STEP: f32 = 0.05;

/// A change of one worker.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Time at which this gateway noticed it.
    pub at: SystemTime,
    /// The worker.
    pub worker: WorkerId,
    /// The change.
    pub kind: ChangeKind,
}

/// The kinds of changes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ChangeKind {
    /// The worker joined with this role.
    Up(Role),
    /// Another process took over its name.
    Restarted,
    /// Its role changed.
    Role {
        /// Old value.
        from: Role,
        /// New value.
        to: Role,
    },
    /// The share of its steps that is open to prefill changed.
    Share {
        /// Old value.
        from: f32,
        /// New value.
        to: f32,
    },
    /// It accepts jobs.
    Ready,
    /// It accepts no jobs for now.
    NotReady,
    /// It finishes what is in flight and accepts nothing new.
    Draining,
    /// It left, or its presence stopped for too long.
    Gone,
}

/// The last [`CHANGES_MAX`] changes.
#[derive(Debug, Default)]
pub(crate) struct History {
    changes: VecDeque<Change>,
    /// Each worker's share at its last listed change: small steps add up.
    noted_shares: BTreeMap<WorkerId, f32>,
}

impl History {
    /// Lists the changes from `before` to `after`.
    pub(crate) fn record(
        &mut self,
        before: Option<&WorkerState>,
        after: &WorkerState,
        at: SystemTime,
    ) {
        let worker = &after.worker;
        let Some(before) = before else {
            self.note_share(worker, after.prefill_share);
            return self.note(worker, ChangeKind::Up(after.role), at);
        };
        if before.epoch != after.epoch {
            self.note(worker, ChangeKind::Restarted, at);
        }
        let noted = self.noted_shares.get(worker).copied().unwrap_or(before.prefill_share);
        if before.role != after.role {
            self.note(worker, ChangeKind::Role { from: before.role, to: after.role }, at);
            self.note_share(worker, after.prefill_share);
        } else if (noted - after.prefill_share).abs() >= SHARE_STEP {
            self.note(worker, ChangeKind::Share { from: noted, to: after.prefill_share }, at);
            self.note_share(worker, after.prefill_share);
        }
        let kind = match (availability(before), availability(after)) {
            (before, after) if before == after => return,
            (_, Availability::Draining) => ChangeKind::Draining,
            (_, Availability::Ready) => ChangeKind::Ready,
            (_, Availability::NotReady) => ChangeKind::NotReady,
        };
        self.note(worker, kind, at);
    }

    /// Lists that `worker` left.
    pub(crate) fn gone(&mut self, worker: &WorkerId, at: SystemTime) {
        self.noted_shares.remove(worker);
        self.note(worker, ChangeKind::Gone, at);
    }

    /// Returns the changes, oldest first.
    pub(crate) fn changes(&self) -> Vec<Change> {
        self.changes.iter().cloned().collect()
    }

    fn note(&mut self, worker: &WorkerId, kind: ChangeKind, at: SystemTime) {
        if self.changes.len() == CHANGES_MAX {
            self.changes.pop_front();
        }
        self.changes.push_back(Change { at, worker: worker.clone(), kind });
    }

    fn note_share(&mut self, worker: &WorkerId, share: f32) {
        self.noted_shares.insert(worker.clone(), share);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Availability {
    Ready,
    NotReady,
    Draining,
}

fn availability(state: &WorkerState) -> Availability {
    match (state.draining, state.ready) {
        (true, _) => Availability::Draining,
        (false, true) => Availability::Ready,
        (false, false) => Availability::NotReady,
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use testbed::idle_worker;

    use super::*;

    fn kinds(history: &History) -> Vec<ChangeKind> {
        history.changes().into_iter().map(|change| change.kind).collect()
    }

    #[test]
    fn only_what_changed_is_noted() {
        let mut history = History::default();
        let first = idle_worker("w", Role::Prefill);
        let busy = WorkerState { running_sequences: 3, ..first.clone() };
        let role = WorkerState { role: Role::Decode, prefill_share: 0.0, ..busy.clone() };
        let draining = WorkerState { draining: true, ..role.clone() };
        let again = WorkerState { epoch: 2, ready: false, ..role.clone() };
        let ready = WorkerState { ready: true, ..again.clone() };
        let states = [&first, &busy, &role, &draining, &again, &ready];
        let mut before = None;
        for state in states {
            history.record(before, state, UNIX_EPOCH);
            before = Some(state);
        }
        history.gone(&first.worker, UNIX_EPOCH);
        let expected = [
            ChangeKind::Up(Role::Prefill),
            ChangeKind::Role { from: Role::Prefill, to: Role::Decode },
            ChangeKind::Draining,
            ChangeKind::Restarted,
            ChangeKind::NotReady,
            ChangeKind::Ready,
            ChangeKind::Gone,
        ];
        assert_eq!(kinds(&history), expected);
    }

    #[test]
    fn a_share_that_drifts_in_small_steps_is_noted_when_it_has_gone_far() {
        let mut history = History::default();
        let mut before = WorkerState { prefill_share: 0.5, ..idle_worker("w", Role::Prefill) };
        history.record(None, &before, UNIX_EPOCH);
        for step in 1..=4 {
            let share = 0.5 + 0.02 * step as f32;
            let after = WorkerState { prefill_share: share, ..before.clone() };
            history.record(Some(&before), &after, UNIX_EPOCH);
            before = after;
        }
        let [ChangeKind::Up(_), ChangeKind::Share { from, to }] = kinds(&history)[..] else {
            panic!("{:?}", kinds(&history));
        };
        assert!(from == 0.5 && (0.55..0.57).contains(&to), "{from} {to}");
    }

    #[test]
    fn the_list_is_bounded_and_keeps_the_newest() {
        let mut history = History::default();
        for index in 0..CHANGES_MAX + 5 {
            let state = idle_worker(&format!("w{index}"), Role::Decode);
            history.record(None, &state, UNIX_EPOCH);
        }
        let changes = history.changes();
        assert_eq!(changes.len(), CHANGES_MAX);
        assert_eq!(changes[0].worker.as_str(), "w5");
    }
}
