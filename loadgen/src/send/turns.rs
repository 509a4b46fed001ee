//! Turns of sessions that wait for the preceding one: pure.

use std::collections::HashMap;

use crate::plan::{Plan, Turns};

/// A turn whose predecessor is over, with its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextTurn {
    /// Index in the plan.
    pub index: usize,
    /// Intended time.
    pub intended_ns: i64,
}

/// Successor of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// None: the request has no session, or was its last turn.
    Nothing,
    /// The next turn.
    Turn(NextTurn),
    /// Only turns that are not due before the end.
    BeyondEnd,
}

/// Dependencies between the requests of a plan.
#[derive(Clone, Debug, Default)]
pub struct TurnChains {
    /// Next turn of the session, by request.
    next: Vec<Option<u32>>,
    thinks_ns: Vec<i64>,
    until_ns: Option<i64>,
}

impl TurnChains {
    /// Creates the chains of a plan. They are empty if turns are due at their planned times.
    pub fn of(plan: &Plan) -> Self {
        let mut next = vec![None; plan.requests.len()];
        if plan.turns == Turns::AfterPrevious {
            let mut last_of: HashMap<u32, usize> = HashMap::new();
            for (index, request) in plan.requests.iter().enumerate() {
                let before = request.session.and_then(|session| last_of.insert(session, index));
                if let Some(before) = before {
                    next[before] = Some(index as u32);
                }
            }
        }
        let thinks_ns = plan.requests.iter().map(|request| request.think_ns).collect();
        Self { next, thinks_ns, until_ns: plan.until_ns }
    }

    /// Returns, for each request, whether it waits for another.
    pub fn waiting(&self) -> Vec<bool> {
        let mut waiting = vec![false; self.next.len()];
        self.next.iter().flatten().for_each(|index| waiting[*index as usize] = true);
        waiting
    }

    /// Returns the successor of the request at `index`, which was over at `finished_ns`, with or
    /// without success.
    pub fn after(&self, index: usize, finished_ns: i64) -> Next {
        let Some(next) = self.next[index].map(|next| next as usize) else { return Next::Nothing };
        let intended_ns = finished_ns + self.thinks_ns[next].max(0);
        if self.until_ns.is_some_and(|until| intended_ns >= until) {
            return Next::BeyondEnd;
        }
        Next::Turn(NextTurn { index: next, intended_ns })
    }

    /// Yields the turns after the request at `index`.
    pub fn rest(&self, index: usize) -> impl Iterator<Item = usize> + '_ {
        let after = |at: &usize| self.next[*at].map(|next| next as usize);
        std::iter::successors(after(&index), after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use traces::units::Range;

    /// Sessions 0 and 1 with three and two turns, and one request without a session.
    fn plan(turns: Turns, until_ns: Option<i64>) -> Plan {
        let one = Range { lo: 1, hi: 1 };
        let mut plan = Plan::synthetic(&[0, 1, 2, 3, 4, 5], one, one, 0);
        let sessions = [Some(0), Some(1), None, Some(0), Some(1), Some(0)];
        for (request, session) in plan.requests.iter_mut().zip(sessions) {
            (request.session, request.think_ns) = (session, 10);
        }
        Plan { turns, until_ns, ..plan }
    }

    #[test]
    fn a_turn_is_due_its_think_time_after_the_one_before() {
        let chains = TurnChains::of(&plan(Turns::AfterPrevious, None));
        assert_eq!(chains.waiting(), [false, false, false, true, true, true]);
        assert_eq!(chains.after(0, 100), Next::Turn(NextTurn { index: 3, intended_ns: 110 }));
        assert_eq!(chains.after(3, 200), Next::Turn(NextTurn { index: 5, intended_ns: 210 }));
        assert_eq!(chains.after(5, 300), Next::Nothing);
        assert_eq!(chains.after(2, 100), Next::Nothing);
    }

    #[test]
    fn no_turn_begins_at_the_end_or_later() {
        let chains = TurnChains::of(&plan(Turns::AfterPrevious, Some(111)));
        assert!(matches!(chains.after(0, 100), Next::Turn(_)));
        assert_eq!(chains.after(0, 101), Next::BeyondEnd);
        assert_eq!(chains.rest(0).collect::<Vec<_>>(), [3, 5]);
        assert_eq!(chains.rest(1).collect::<Vec<_>>(), [4]);
        assert_eq!(chains.after(4, 101), Next::Nothing);
    }

    #[test]
    fn open_turns_do_not_wait() {
        let chains = TurnChains::of(&plan(Turns::Open, None));
        assert_eq!(chains.waiting(), [false; 6]);
        assert_eq!(chains.after(0, 100), Next::Nothing);
    }
}
