//! The counters of the bus, above all of dropped messages by reason.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use protocol::WireError;

/// At most one warning per reason in this time.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// The reason for which a received message was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropReason {
    /// The message is longer than its kind may be.
    TooLong,
    /// The message is not of its kind.
    Malformed,
    /// A request has no reply subject.
    NoReply,
    /// The subject does not fit the message.
    Subject,
    /// A block frame has no well-formed header, or frames do not fit together.
    Frame,
    /// The body of a block frame is not the one that was stored.
    Checksum,
}

impl DropReason {
    /// Every reason, in the order of the variants.
    pub const ALL: [Self; 6] =
        [Self::TooLong, Self::Malformed, Self::NoReply, Self::Subject, Self::Frame, Self::Checksum];

    /// Returns the reason to drop a message that cannot be decoded.
    pub(crate) fn of(error: &WireError) -> Self {
        match error {
            WireError::TooLong { .. } => Self::TooLong,
            _ => Self::Malformed,
        }
    }

    /// Returns the reason as a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::Malformed => "malformed",
            Self::NoReply => "no_reply",
            Self::Subject => "subject",
            Self::Frame => "frame",
            Self::Checksum => "checksum",
        }
    }
}

/// A snapshot of the bus's counters, for `/metrics`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BusCounters {
    dropped: [u64; DropReason::ALL.len()],
    /// Lost connections.
    pub disconnects: u64,
    /// Losses of messages because a subscription was read too slowly.
    pub slow_consumers: u64,
    /// Blocks put that were not stored before.
    pub blocks_stored: u64,
    /// Blocks put that were already there.
    pub blocks_already_there: u64,
    /// Bytes of the blocks in `blocks_stored`.
    pub bytes_stored: u64,
    /// Blocks pulled whole.
    pub blocks_pulled: u64,
    /// Their bytes.
    pub bytes_pulled: u64,
}

impl BusCounters {
    /// Returns the number of messages dropped for one reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }

    /// Returns the number of messages dropped for any reason.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().sum()
    }
}

#[derive(Default)]
pub(crate) struct Counters {
    dropped: [AtomicU64; DropReason::ALL.len()],
    warned: Mutex<[Option<Instant>; DropReason::ALL.len()]>,
    disconnects: AtomicU64,
    slow_consumers: AtomicU64,
    blocks_stored: AtomicU64,
    blocks_already_there: AtomicU64,
    bytes_stored: AtomicU64,
    blocks_pulled: AtomicU64,
    bytes_pulled: AtomicU64,
}

impl Counters {
    /// Counts a dropped message; warns about the first of each reason every ten seconds.
    pub(crate) fn drop_message(&self, reason: DropReason, subject: &str, why: &str) {
        let total = 1 + self.dropped[reason as usize].fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let mut warned = self.warned.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let last = &mut warned[reason as usize];
        if last.is_some_and(|last| now.duration_since(last) < WARN_EVERY) {
            return;
        }
        *last = Some(now);
        drop(warned);
        let subject: String = subject.chars().take(128).collect();
        tracing::warn!(reason = reason.as_str(), total, subject, why, "dropped a message");
    }

    pub(crate) fn disconnected(&self) {
        self.disconnects.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn slow_consumer(&self) {
        self.slow_consumers.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn stored(&self, bytes: usize) {
        self.blocks_stored.fetch_add(1, Ordering::Relaxed);
        self.bytes_stored.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn already_there(&self) {
        self.blocks_already_there.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn pulled(&self, bytes: usize) {
        self.blocks_pulled.fetch_add(1, Ordering::Relaxed);
        self.bytes_pulled.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> BusCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        BusCounters {
            dropped: self.dropped.each_ref().map(read),
            disconnects: read(&self.disconnects),
            slow_consumers: read(&self.slow_consumers),
            blocks_stored: read(&self.blocks_stored),
            blocks_already_there: read(&self.blocks_already_there),
            bytes_stored: read(&self.bytes_stored),
            blocks_pulled: read(&self.blocks_pulled),
            bytes_pulled: read(&self.bytes_pulled),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter() {
        let counters = Counters::default();
        for (times, reason) in DropReason::ALL.into_iter().enumerate() {
            (0..=times).for_each(|_| counters.drop_message(reason, "tandem.v1.x", "test"));
        }
        let seen = counters.snapshot();
        for (times, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(seen.dropped(reason), times as u64 + 1, "{}", reason.as_str());
        }
        assert_eq!(seen.dropped_total(), 21);
    }
}
