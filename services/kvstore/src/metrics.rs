//! The metrics of the kvstore.

use bus::{BusCounters, DropReason};
use chassis::metrics::Registry;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use scheduling::residency::ResidencyTotals;

type Labels = Vec<(&'static str, &'static str)>;

/// The kvstore's metrics; cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct StoreMetrics {
    blocks: Gauge,
    bytes: Gauge,
    capacity: Gauge,
    connected: Gauge,
    leases: Gauge,
    leased_blocks: Gauge,
    lookups: Counter,
    hits: Counter,
    misses: Counter,
    evictions: Counter,
    expired: Counter,
    discarded: Counter,
    dropped: Family<Labels, Counter>,
    disconnects: Counter,
    slow_consumers: Counter,
}

impl StoreMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "tandem_bus_connected",
            "1 while this service is connected to NATS, else 0",
            metrics.connected.clone(),
        );
        let registry = registry.sub_registry_with_prefix("tandem_kvstore");
        registry.register("blocks", "KV blocks in the store", metrics.blocks.clone());
        registry.register("bytes", "Bytes of the KV blocks in the store", metrics.bytes.clone());
        let capacity = "Largest total size of the KV blocks of all models";
        registry.register("capacity_bytes", capacity, metrics.capacity.clone());
        registry.register(
            "leases",
            "Requests that hold a lease on stored KV blocks",
            metrics.leases.clone(),
        );
        registry.register(
            "leased_blocks",
            "Stored KV blocks under at least one lease",
            metrics.leased_blocks.clone(),
        );
        let counters = [
            ("lookups", "Prefix lookups that the store replied to", &metrics.lookups),
            ("hits", "Looked-up KV blocks that were stored", &metrics.hits),
            ("misses", "Looked-up KV blocks that were not stored", &metrics.misses),
            ("evictions", "KV blocks evicted for lack of room", &metrics.evictions),
            (
                "expired",
                "KV blocks that the stream removed by its age or size limit",
                &metrics.expired,
            ),
            (
                "discarded",
                "KV blocks discarded because a reader found them damaged",
                &metrics.discarded,
            ),
            ("disconnects", "Connections to NATS that the store lost", &metrics.disconnects),
            (
                "slow_consumers",
                "Times that NATS dropped messages because the store read too slowly",
                &metrics.slow_consumers,
            ),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        for reason in DropReason::ALL {
            drop(metrics.dropped.get_or_create(&vec![("reason", reason.as_str())]));
        }
        registry.register(
            "messages_dropped",
            "Bus messages that the store dropped, by reason",
            metrics.dropped.clone(),
        );
        metrics
    }

    /// Counts a lookup that found `stored` of `asked` blocks.
    pub(crate) fn looked_up(&self, asked: usize, stored: usize) {
        self.lookups.inc();
        self.hits.inc_by(stored as u64);
        self.misses.inc_by(asked.saturating_sub(stored) as u64);
    }

    pub(crate) fn evicted(&self, blocks: usize) {
        self.evictions.inc_by(blocks as u64);
    }

    pub(crate) fn evicted_total(&self) -> u64 {
        self.evictions.get()
    }

    pub(crate) fn expired(&self, blocks: u64) {
        self.expired.inc_by(blocks);
    }

    pub(crate) fn discarded(&self) {
        self.discarded.inc();
    }

    /// Sets the gauges of stored blocks, of which `capacity_bytes` fit.
    pub(crate) fn show(&self, totals: &ResidencyTotals, capacity_bytes: u64) {
        self.capacity.set(capacity_bytes as i64);
        self.blocks.set(totals.blocks as i64);
        self.bytes.set(totals.bytes as i64);
        self.leases.set(totals.leases as i64);
        self.leased_blocks.set(totals.leased_blocks as i64);
    }

    /// Raises the bus's counters to `now`.
    pub(crate) fn show_bus(&self, now: &BusCounters, connected: bool) {
        self.connected.set(i64::from(connected));
        let raise = |counter: &Counter, to: u64| {
            counter.inc_by(to.saturating_sub(counter.get()));
        };
        for reason in DropReason::ALL {
            let labels = vec![("reason", reason.as_str())];
            raise(&self.dropped.get_or_create(&labels), now.dropped(reason));
        }
        raise(&self.disconnects, now.disconnects);
        raise(&self.slow_consumers, now.slow_consumers);
    }
}
