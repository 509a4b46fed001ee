//! The one or two legs of an attempt and their progress.

use protocol::{Leg, WorkerId};

use crate::route::Choice;

/// Progress of a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LegState {
    /// The job was sent; there is no reply yet.
    Asked,
    /// The worker accepted it and holds pages for it.
    Taken,
    /// The worker no longer holds anything for it.
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LegKind {
    Prefill,
    Decode,
    Whole,
}

/// The legs of an attempt, at most one per worker.
#[derive(Clone, Debug, Default)]
pub(super) struct Legs(Vec<(LegKind, WorkerId, LegState)>);

impl Legs {
    pub(super) fn of(choice: &Choice) -> Self {
        let asked = |kind, worker: &WorkerId| (kind, worker.clone(), LegState::Asked);
        Self(match choice {
            Choice::Split { prefill, decode } => {
                vec![asked(LegKind::Prefill, prefill), asked(LegKind::Decode, decode)]
            }
            Choice::Whole { worker } => vec![asked(LegKind::Whole, worker)],
        })
    }

    /// Returns the part of the attempt that each worker is to do.
    pub(super) fn jobs(&self) -> impl Iterator<Item = (WorkerId, Leg)> {
        let other = |kind| self.worker(kind).cloned();
        self.0.iter().filter_map(move |(kind, worker, _)| {
            let leg = match kind {
                LegKind::Prefill => Leg::Prefill { decode: other(LegKind::Decode)? },
                LegKind::Decode => Leg::Decode { prefill: other(LegKind::Prefill)? },
                LegKind::Whole => Leg::Whole,
            };
            Some((worker.clone(), leg))
        })
    }

    pub(super) fn kind(&self, worker: &WorkerId) -> Option<LegKind> {
        self.0.iter().find(|leg| leg.1 == *worker).map(|leg| leg.0)
    }

    pub(super) fn worker(&self, kind: LegKind) -> Option<&WorkerId> {
        self.0.iter().find(|leg| leg.0 == kind).map(|leg| &leg.1)
    }

    pub(super) fn state(&self, worker: &WorkerId) -> Option<LegState> {
        self.0.iter().find(|leg| leg.1 == *worker).map(|leg| leg.2)
    }

    /// Sets the progress of a leg; one that is done stays done.
    pub(super) fn set(&mut self, worker: &WorkerId, state: LegState) {
        let leg = self.0.iter_mut().find(|leg| leg.1 == *worker && leg.2 != LegState::Done);
        if let Some(leg) = leg {
            leg.2 = state;
        }
    }

    /// Marks the prefill leg as done: decode has begun.
    pub(super) fn finish_prefill(&mut self) {
        if let Some(worker) = self.worker(LegKind::Prefill).cloned() {
            self.set(&worker, LegState::Done);
        }
    }

    pub(super) fn all_taken(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|leg| leg.2 != LegState::Asked)
    }

    pub(super) fn in_state(&self, state: LegState) -> impl Iterator<Item = &WorkerId> {
        self.0.iter().filter(move |leg| leg.2 == state).map(|leg| &leg.1)
    }

    /// Marks every leg done; returns the workers that still hold something or may yet.
    pub(super) fn give_up(&mut self) -> Vec<WorkerId> {
        let open = self.0.iter_mut().filter(|leg| leg.2 != LegState::Done);
        open.map(|leg| {
            leg.2 = LegState::Done;
            leg.1.clone()
        })
        .collect()
    }
}
