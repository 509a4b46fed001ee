//! The state that shell and step loop share about sequences: atomics, and a table that only the
//! shell uses.
//!
//! Every accepted sequence has a [`Ticket`] that both sides hold. The shell finds tickets through
//! [`Tickets`], whose lock only the shell takes; the loop keeps them beside its sequences.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::RequestKey;

/// Ended tickets that may stay in the table before it is cleaned.
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

    /// Returns true until the shell cancels the sequence.
    pub(crate) fn wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }

    /// Returns the end of the lease, in milliseconds since the Unix epoch.
    pub(crate) fn lease_until_ms(&self) -> u64 {
        self.lease_until_ms.load(Ordering::Relaxed)
    }

    /// Marks the sequence as ended by the step loop.
    pub(crate) fn gone(&self) {
        self.here.store(false, Ordering::Release);
    }

    fn live(&self) -> bool {
        self.wanted() && self.here.load(Ordering::Acquire)
    }
}

/// Signals between shell and loop beside the queues.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    /// Accepted sequences without pages, those in the inbox included.
    queued: AtomicIsize,
    /// True if a ticket was cancelled since the last check.
    cancelled: AtomicBool,
}

impl Signals {
    /// Reserves a slot in the queue if fewer than `max` are taken; otherwise returns their number.
    pub(crate) fn reserve(&self, max: usize) -> Result<(), usize> {
        self.queued
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |queued| {
                (queued < max as isize).then_some(queued + 1)
            })
            .map(drop)
            .map_err(|queued| queued.max(0) as usize)
    }

    /// Corrects the number of slots taken.
    pub(crate) fn adjust(&self, by: isize) {
        self.queued.fetch_add(by, Ordering::AcqRel);
    }

    /// Returns true once after sequences were cancelled.
    pub(crate) fn take_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed) && self.cancelled.swap(false, Ordering::AcqRel)
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
    clean_at: usize,
}

impl Tickets {
    /// Returns true for a sequence that is present and not cancelled.
    pub(crate) fn has(&self, key: &RequestKey) -> bool {
        self.lock().tickets.get(key).is_some_and(|ticket| ticket.live())
    }

    /// Adds a ticket if `take` succeeds; does nothing for a key that is present.
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
        if table.tickets.len() >= table.clean_at {
            table.tickets.retain(|_, ticket| ticket.live());
            table.clean_at = 2 * table.tickets.len() + ENDED_MAX;
        }
        Ok(())
    }

    /// Cancels a sequence; returns true if it was present and not cancelled.
    pub(crate) fn cancel(&self, key: &RequestKey, signals: &Signals) -> bool {
        let Some(ticket) = self.lock().tickets.remove(key) else { return false };
        let was_present = ticket.live();
        ticket.wanted.store(false, Ordering::Release);
        signals.cancelled.store(true, Ordering::Release);
        was_present
    }

    /// Sets the end of a sequence's lease; returns false if it is unknown.
    pub(crate) fn renew(&self, key: &RequestKey, lease_until_ms: u64) -> bool {
        let table = self.lock();
        let ticket = table.tickets.get(key).filter(|ticket| ticket.live());
        ticket.map(|found| found.lease_until_ms.store(lease_until_ms, Ordering::Relaxed)).is_some()
    }

    /// Returns how often the table was locked.
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
    fn slots_are_bounded_and_come_back() {
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
    fn a_cancellation_is_seen_once() {
        let (tickets, signals) = (Tickets::default(), Signals::default());
        let ticket = Ticket::new(5);
        tickets.insert(key(1), ticket.clone(), || Ok::<_, ()>(())).unwrap();
        assert!(tickets.renew(&key(1), 9));
        assert_eq!(ticket.lease_until_ms(), 9);
        assert!(tickets.cancel(&key(1), &signals));
        assert!(!tickets.cancel(&key(1), &signals));
        assert!(!ticket.wanted() && !tickets.renew(&key(1), 10));
        assert!(signals.take_cancelled());
        assert!(!signals.take_cancelled());
    }
}
