//! What the kvstore shows on `/metrics`.

use bus::{BusCounters, DropReason};
use chassis::metrics::Registry;
use chassis::metrics::prometheus_client::metrics::counter::Counter;
use chassis::metrics::prometheus_client::metrics::family::Family;
use chassis::metrics::prometheus_client::metrics::gauge::Gauge;
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
    lost: Counter,
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
            "1 while connected to NATS",
            metrics.connected.clone(),
        );
        let registry = registry.sub_registry_with_prefix("tandem_kvstore");
        registry.register("blocks", "Blocks stored", metrics.blocks.clone());
        registry.register("bytes", "Bytes of the blocks stored", metrics.bytes.clone());
        let capacity = "Bytes that the blocks of all models may take";
        registry.register("capacity_bytes", capacity, metrics.capacity.clone());
        registry.register("leases", "Requests that hold a lease", metrics.leases.clone());
        registry.register(
            "leased_blocks",
            "Blocks under at least one lease",
            metrics.leased_blocks.clone(),
        );
        let counters = [
            ("lookups", "Lookups answered", &metrics.lookups),
            ("hits", "Blocks asked for that were stored", &metrics.hits),
            ("misses", "Blocks asked for that were not stored", &metrics.misses),
            ("evictions", "Blocks evicted for lack of room", &metrics.evictions),
            ("lost", "Blocks that the stream dropped by itself", &metrics.lost),
            ("discarded", "Blocks discarded because a reader found damage", &metrics.discarded),
            ("disconnects", "Times the connection to NATS was lost", &metrics.disconnects),
            ("slow_consumers", "Times the client lost messages", &metrics.slow_consumers),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        for reason in DropReason::ALL {
            drop(metrics.dropped.get_or_create(&vec![("reason", reason.as_str())]));
        }
        registry.register("messages_dropped", "Messages not used", metrics.dropped.clone());
        metrics
    }

    /// A lookup found `stored` of `asked` blocks.
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

    pub(crate) fn lost(&self, blocks: u64) {
        self.lost.inc_by(blocks);
    }

    pub(crate) fn discarded(&self) {
        self.discarded.inc();
    }

    /// What is stored, of at most `capacity_bytes`.
    pub(crate) fn show(&self, totals: &ResidencyTotals, capacity_bytes: u64) {
        self.capacity.set(capacity_bytes as i64);
        self.blocks.set(totals.blocks as i64);
        self.bytes.set(totals.bytes as i64);
        self.leases.set(totals.leases as i64);
        self.leased_blocks.set(totals.leased_blocks as i64);
    }

    /// Brings the bus's counters up to `now`; they are only ever raised here.
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
