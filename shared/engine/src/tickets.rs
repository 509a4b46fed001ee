//! What shell and step loop know of one another's sequences: atomics, and a table that the step
//! loop never sees.
//!
//! Every accepted sequence has a [`Ticket`] that both sides hold. The shell finds tickets through
//! [`Tickets`], whose lock only the shell takes; the loop keeps them beside its sequences.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::RequestKey;

/// Ended tickets that stay in the table before it is looked through.
const ENDED_MAX: usize = 64;

/// One accepted sequence.
#[derive(Debug)]
pub(crate) struct Ticket {
    lease_until_ms: AtomicU64,
    wanted: AtomicBool,
    here: AtomicBool,
}

impl Ticket {
    pub(crate) fn new(lease_until_ms: u64) -> Arc<Self> {
        Arc::new(Self {
            lease_until_ms: AtomicU64::new(lease_until_ms),
            wanted: AtomicBool::new(true),
            here: AtomicBool::new(true),
        })
    }

    /// True until the shell gives it up.
    pub(crate) fn wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }

    /// When the sequence is given up unless somebody asks for it.
    pub(crate) fn lease_until_ms(&self) -> u64 {
        self.lease_until_ms.load(Ordering::Relaxed)
    }

    /// The step loop has let go of it.
    pub(crate) fn gone(&self) {
        self.here.store(false, Ordering::Release);
    }

    fn live(&self) -> bool {
        self.wanted() && self.here.load(Ordering::Acquire)
    }
}

/// Signals that go to and fro beside the queues.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    /// Sequences that were accepted and have no pages: those in the inbox too.
    queued: AtomicIsize,
    /// Some ticket is not wanted any more.
    given_up: AtomicBool,
}

impl Signals {
    /// Takes a place in the queue, if fewer than `max` are taken; else says how many are.
    pub(crate) fn reserve(&self, max: usize) -> Result<(), usize> {
        let more = |queued: isize| (queued < max as isize).then_some(queued + 1);
        self.queued
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more)
            .map(drop)
            .map_err(|queued| queued.max(0) as usize)
    }

    /// Corrects the number of places taken.
    pub(crate) fn adjust(&self, by: isize) {
        self.queued.fetch_add(by, Ordering::AcqRel);
    }

    /// True once after sequences were given up.
    pub(crate) fn take_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed) && self.given_up.swap(false, Ordering::AcqRel)
    }
}

/// The shell's table of tickets.
#[derive(Debug, Default)]
pub(crate) struct Tickets {
    table: Mutex<Table>,
    acquisitions: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    tickets: BTreeMap<RequestKey, Arc<Ticket>>,
    look_through_at: usize,
}

impl Tickets {
    /// True for a sequence that is here and wanted.
    pub(crate) fn has(&self, key: &RequestKey) -> bool {
        self.lock().tickets.get(key).is_some_and(|ticket| ticket.live())
    }

    /// Adds a ticket when `take` succeeds; nothing happens for a key that is here already.
    pub(crate) fn insert<E>(
        &self,
        key: RequestKey,
        ticket: Arc<Ticket>,
        take: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let mut table = self.lock();
        if table.tickets.get(&key).is_some_and(|ticket| ticket.live()) {
            return Ok(());
        }
        take()?;
        table.tickets.insert(key, ticket);
        if table.look_through_at <= table.tickets.len() {
            table.tickets.retain(|_, ticket| ticket.live());
            table.look_through_at = 2 * table.tickets.len() + ENDED_MAX;
        }
        Ok(())
    }

    /// Gives a sequence up; true when it was here and wanted.
    pub(crate) fn give_up(&self, key: &RequestKey, signals: &Signals) -> bool {
        let Some(ticket) = self.lock().tickets.remove(key) else { return false };
        let was_here = ticket.live();
        ticket.wanted.store(false, Ordering::Release);
        signals.given_up.store(true, Ordering::Release);
        was_here
    }

    /// Sets when the lease of a sequence ends; false when it is not here.
    pub(crate) fn keep_until(&self, key: &RequestKey, lease_until_ms: u64) -> bool {
        let table = self.lock();
        let ticket = table.tickets.get(key).filter(|ticket| ticket.live());
        ticket.map(|found| found.lease_until_ms.store(lease_until_ms, Ordering::Relaxed)).is_some()
    }

    /// How often the table was locked.
    pub(crate) fn acquisitions(&self) -> u64 {
        self.acquisitions.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.acquisitions.fetch_add(1, Ordering::Relaxed);
        // A panic aborts the process (chassis), so a poisoned lock only occurs in tests.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{Attempt, RequestId};

    fn key(id: u128) -> RequestKey {
        RequestKey { request: RequestId(id), attempt: Attempt(0) }
    }

    #[test]
    fn places_are_bounded_and_come_back() {
        let signals = Signals::default();
        assert_eq!(signals.reserve(2), Ok(()));
        assert_eq!(signals.reserve(2), Ok(()));
        assert_eq!(signals.reserve(2), Err(2));
        signals.adjust(-1);
        assert_eq!(signals.reserve(2), Ok(()));
    }

    #[test]
    fn ended_tickets_do_not_pile_up() {
        let tickets = Tickets::default();
        for id in 0..10_000 {
            let ticket = Ticket::new(0);
            tickets.insert(key(id), ticket.clone(), || Ok::<_, ()>(())).unwrap();
            ticket.gone();
            assert!(!tickets.has(&key(id)));
        }
        assert!(tickets.lock().tickets.len() <= ENDED_MAX + 1);
    }

    #[test]
    fn what_is_given_up_is_seen_once() {
        let (tickets, signals) = (Tickets::default(), Signals::default());
        let ticket = Ticket::new(5);
        tickets.insert(key(1), ticket.clone(), || Ok::<_, ()>(())).unwrap();
        assert!(tickets.keep_until(&key(1), 9));
        assert_eq!(ticket.lease_until_ms(), 9);
        assert!(tickets.give_up(&key(1), &signals));
        assert!(!tickets.give_up(&key(1), &signals));
        assert!(!ticket.wanted() && !tickets.keep_until(&key(1), 10));
        assert!(signals.take_given_up());
        assert!(!signals.take_given_up());
    }
}
