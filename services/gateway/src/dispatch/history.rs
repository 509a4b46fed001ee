//! What changed in the fleet lately, for people: a bounded list, oldest first.

use std::collections::{BTreeMap, VecDeque};
use std::time::SystemTime;

use protocol::{Role, WorkerId, WorkerState};

/// Changes that are remembered.
pub const CHANGES_MAX: usize = 32;
/// A smaller change of the prefill share is the planner at work, not news.
const SHARE_STEP: f32 = 0.05;

/// Something that happened to a worker.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// When this gateway saw it.
    pub at: SystemTime,
    /// To whom.
    pub worker: WorkerId,
    /// What.
    pub what: What,
}

/// What can happen to a worker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum What {
    /// It was seen for the first time, with this role.
    Up(Role),
    /// Another process took its name.
    Restarted,
    /// It got another role.
    Role {
        /// The old one.
        from: Role,
        /// The new one.
        to: Role,
    },
    /// Another share of its steps is open to prefill.
    Share {
        /// The old one.
        from: f32,
        /// The new one.
        to: f32,
    },
    /// It takes jobs from now on.
    Ready,
    /// It takes no jobs for now.
    NotReady,
    /// It finishes what it has and takes nothing new.
    Draining,
    /// It left, or was silent for too long.
    Gone,
}

/// The last [`CHANGES_MAX`] changes.
#[derive(Debug, Default)]
pub(crate) struct History {
    changes: VecDeque<Change>,
    /// The share at the last note, per worker: one that drifts in small steps goes far too.
    noted_shares: BTreeMap<WorkerId, f32>,
}

impl History {
    /// Notes what `after` says that `before` did not.
    pub(crate) fn seen(
        &mut self,
        before: Option<&WorkerState>,
        after: &WorkerState,
        at: SystemTime,
    ) {
        let worker = &after.worker;
        let Some(before) = before else {
            self.note_share(worker, after.prefill_share);
            return self.note(worker, What::Up(after.role), at);
        };
        if before.epoch != after.epoch {
            self.note(worker, What::Restarted, at);
        }
        let noted = self.noted_shares.get(worker).copied().unwrap_or(before.prefill_share);
        if before.role != after.role {
            self.note(worker, What::Role { from: before.role, to: after.role }, at);
            self.note_share(worker, after.prefill_share);
        } else if SHARE_STEP <= (noted - after.prefill_share).abs() {
            self.note(worker, What::Share { from: noted, to: after.prefill_share }, at);
            self.note_share(worker, after.prefill_share);
        }
        let news = match (standing(before), standing(after)) {
            (before, after) if before == after => return,
            (_, Standing::Draining) => What::Draining,
            (_, Standing::Ready) => What::Ready,
            (_, Standing::NotReady) => What::NotReady,
        };
        self.note(worker, news, at);
    }

    /// Notes that `worker` left.
    pub(crate) fn gone(&mut self, worker: &WorkerId, at: SystemTime) {
        self.noted_shares.remove(worker);
        self.note(worker, What::Gone, at);
    }

    /// What is remembered, oldest first.
    pub(crate) fn changes(&self) -> Vec<Change> {
        self.changes.iter().cloned().collect()
    }

    fn note(&mut self, worker: &WorkerId, what: What, at: SystemTime) {
        if self.changes.len() == CHANGES_MAX {
            self.changes.pop_front();
        }
        self.changes.push_back(Change { at, worker: worker.clone(), what });
    }

    fn note_share(&mut self, worker: &WorkerId, share: f32) {
        self.noted_shares.insert(worker.clone(), share);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Ready,
    NotReady,
    Draining,
}

fn standing(state: &WorkerState) -> Standing {
    match (state.draining, state.ready) {
        (true, _) => Standing::Draining,
        (false, true) => Standing::Ready,
        (false, false) => Standing::NotReady,
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use testbed::idle_worker;

    use super::*;

    fn whats(history: &History) -> Vec<What> {
        history.changes().into_iter().map(|change| change.what).collect()
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
            history.seen(before, state, UNIX_EPOCH);
            before = Some(state);
        }
        history.gone(&first.worker, UNIX_EPOCH);
        let expected = [
            What::Up(Role::Prefill),
            What::Role { from: Role::Prefill, to: Role::Decode },
            What::Draining,
            What::Restarted,
            What::NotReady,
            What::Ready,
            What::Gone,
        ];
        assert_eq!(whats(&history), expected);
    }

    #[test]
    fn a_share_that_drifts_in_small_steps_is_noted_when_it_has_gone_far() {
        let mut history = History::default();
        let mut before = WorkerState { prefill_share: 0.5, ..idle_worker("w", Role::Prefill) };
        history.seen(None, &before, UNIX_EPOCH);
        for step in 1..=4 {
            let share = 0.5 + 0.02 * step as f32;
            let after = WorkerState { prefill_share: share, ..before.clone() };
            history.seen(Some(&before), &after, UNIX_EPOCH);
            before = after;
        }
        let [What::Up(_), What::Share { from, to }] = whats(&history)[..] else {
            panic!("{:?}", whats(&history));
        };
        assert!(from == 0.5 && (0.55..0.57).contains(&to), "{from} {to}");
    }

    #[test]
    fn the_list_is_bounded_and_keeps_the_newest() {
        let mut history = History::default();
        for index in 0..CHANGES_MAX + 5 {
            let state = idle_worker(&format!("w{index}"), Role::Decode);
            history.seen(None, &state, UNIX_EPOCH);
        }
        let changes = history.changes();
        assert_eq!(changes.len(), CHANGES_MAX);
        assert_eq!(changes[0].worker.as_str(), "w5");
    }
}
