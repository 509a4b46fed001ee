//! The kvstore's one loop: requests, the events of its own tasks, and the clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bus::{
    Blocks, Bus, BusOptions, Call, EnsureError, Incoming, IndexEvent, StateError, StreamLimits,
    StreamState, SubscribeError,
};
use chassis::http::Readiness;
use chassis::telemetry::Tracer;
use chassis::{Settings, StopToken};
use protocol::store::LOOKUP_BLOCKS_MAX;
use protocol::{
    Acknowledged, Discard, Ensure, Lookup, LookupReply, Release, StoreReady, StoreStatus,
    StoreStatusReply,
};
use scheduling::residency::{ResidencyLimits, ResidencyTotals};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::deletion::{self, BATCHES_MAX, DeleteBatch};
use crate::metrics::StoreMetrics;
use crate::stream_index::StreamIndex;
use crate::{INDEX, NATS, traces};

/// Events that tasks may have sent and the loop has not read.
const EVENTS_MAX: usize = 1024;
/// Streams that are created at once.
const ENSURES_MAX: usize = 32;
/// Longest lease: a request that needs a block longer asks again.
const LEASE_MS_MAX: u32 = 600_000;
const TICK: Duration = Duration::from_millis(500);
const ADOPT_RETRY: Duration = Duration::from_secs(1);

/// The parts of the service that the loop uses.
pub(crate) struct Service {
    pub(crate) settings: Settings,
    pub(crate) instance: String,
    pub(crate) readiness: Readiness,
    pub(crate) metrics: StoreMetrics,
    pub(crate) tracer: Tracer,
    pub(crate) stop: StopToken,
}

/// Connects, adopts the streams that exist, and serves until the service stops.
pub(crate) async fn run(service: Service) -> anyhow::Result<()> {
    let options = BusOptions {
        url: service.settings.nats.url.clone(),
        name: format!("kvstore-{}", service.instance),
        connect_timeout: Duration::from_millis(service.settings.nats.connect_timeout_ms),
    };
    let stop = service.stop.clone();
    let connecting = Bus::connect_with_retry(options, stop.cancelled());
    let Some(bus) = connecting.await else { return Ok(()) };
    let (event_sender, events) = mpsc::channel(EVENTS_MAX);
    let (deletions, batches) = mpsc::channel(BATCHES_MAX);
    let mut tasks = JoinSet::new();
    tasks.spawn(deletion::run(batches));
    if service.tracer.is_keeping() {
        tasks.spawn(traces::follow_verdicts(bus.clone(), service.tracer.clone()));
    }
    let requests = Requests::serve(&bus).await?;
    let store_loop = StoreLoop {
        service,
        bus,
        models: BTreeMap::new(),
        adopted: false,
        started: Instant::now(),
        event_sender,
        deletions,
        ensure_permits: Arc::new(Semaphore::new(ENSURES_MAX)),
        state_query: None,
        tasks,
    };
    store_loop.run(requests, events).await;
    Ok(())
}

/// The subjects served.
struct Requests {
    ensure: Incoming<Ensure>,
    lookup: Incoming<Lookup>,
    release: Incoming<Release>,
    discard: Incoming<Discard>,
    status: Incoming<StoreStatus>,
}

impl Requests {
    async fn serve(bus: &Bus) -> Result<Self, SubscribeError> {
        Ok(Self {
            ensure: bus.serve_store().await?,
            lookup: bus.serve_store().await?,
            release: bus.serve_store().await?,
            discard: bus.serve_store().await?,
            status: bus.serve_store().await?,
        })
    }
}

/// A message to the loop from one of its tasks.
enum Event {
    /// The stream of a namespace changed, or its index was lost.
    Index(String, IndexEvent),
    /// The streams that existed at the start were listed.
    Adopted(Result<Vec<Blocks>, StateError>),
    /// A stream was created, or could not be.
    Ensured(Blocks, Box<Call<Ensure>>, Result<(), EnsureError>),
    /// The extent of a namespace's stream is known.
    State(String, StreamState),
}

/// One model's stream and its index.
struct Model {
    blocks: Blocks,
    index: StreamIndex,
}

/// The loop's state.
struct StoreLoop {
    service: Service,
    bus: Bus,
    /// Every model with a stream, by namespace.
    models: BTreeMap<String, Model>,
    /// True once the streams that existed at the start are being read.
    adopted: bool,
    started: Instant,
    event_sender: mpsc::Sender<Event>,
    deletions: mpsc::Sender<DeleteBatch>,
    ensure_permits: Arc<Semaphore>,
    /// The last query of the streams' states.
    state_query: Option<AbortHandle>,
    tasks: JoinSet<()>,
}

impl StoreLoop {
    async fn run(mut self, mut requests: Requests, mut events: mpsc::Receiver<Event>) {
        let stop = self.service.stop.clone();
        let mut tick = tokio::time::interval(TICK);
        self.adopt(Duration::ZERO);
        loop {
            let served = tokio::select! {
                () = stop.cancelled() => return,
                Some(event) = events.recv() => self.on_event(event).await,
                _ = tick.tick() => {
                    self.tick();
                    Ok(())
                }
                Some(_) = self.tasks.join_next() => Ok(()),
                Some(call) = requests.lookup.next() => self.look_up(call).await,
                Some(call) = requests.ensure.next() => {
                    self.ensure(call);
                    Ok(())
                }
                Some(call) = requests.release.next() => {
                    if let Some(index) = self.index(&call.message.fingerprint.namespace()) {
                        index.release(call.message.key);
                    }
                    call.answer(&Acknowledged {}).await
                }
                Some(call) = requests.discard.next() => self.discard(call).await,
                Some(call) = requests.status.next() => {
                    let status = self.status();
                    call.answer(&status).await
                }
            };
            if let Err(error) = served {
                tracing::warn!(%error, "failed to send a reply");
            }
        }
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn index(&mut self, namespace: &str) -> Option<&mut StreamIndex> {
        self.models.get_mut(namespace).map(|model| &mut model.index)
    }

    async fn look_up(&mut self, call: Call<Lookup>) -> Result<(), bus::PublishError> {
        let start = SystemTime::now();
        let now_ms = self.now_ms();
        let Lookup { fingerprint, blocks, key, lease_ms } = &call.message;
        let asked = &blocks[..blocks.len().min(LOOKUP_BLOCKS_MAX)];
        let lease_ms = (*lease_ms).min(LEASE_MS_MAX);
        let stored = match self.index(&fingerprint.namespace()) {
            Some(index) => index.lookup(asked, *key, lease_ms, now_ms),
            None => 0,
        };
        self.service.metrics.looked_up(asked.len(), stored);
        let (tracer, caller) = (&self.service.tracer, call.context.traceparent.as_deref());
        let lookup = traces::LookupResult { key: *key, asked: asked.len(), stored };
        traces::looked_up(tracer, caller, lookup, start);
        call.answer(&LookupReply { stored: stored as u32 }).await
    }

    /// Creates the stream in a task of its own, because JetStream may take its time.
    fn ensure(&mut self, call: Call<Ensure>) {
        let Ok(permit) = self.ensure_permits.clone().try_acquire_owned() else {
            tracing::warn!(
                ensures_max = ENSURES_MAX,
                "dropped a request to create a stream: too many are being created"
            );
            return;
        };
        let blocks = self.bus.blocks(&call.message.fingerprint);
        let (events, limits) = (self.event_sender.clone(), self.stream_limits());
        self.tasks.spawn(async move {
            let ensured = blocks.ensure_stream(limits).await;
            let _loop_ended = events.send(Event::Ensured(blocks, Box::new(call), ensured)).await;
            drop(permit);
        });
    }

    async fn discard(&mut self, call: Call<Discard>) -> Result<(), bus::PublishError> {
        let Discard { fingerprint, block: hash } = call.message;
        let Ok(slot) = self.deletions.try_reserve() else {
            tracing::warn!(%hash, "failed to discard a damaged block: too many deletions wait");
            return Ok(());
        };
        if let Some(model) = self.models.get_mut(&fingerprint.namespace())
            && let Some(eviction) = model.index.discard(hash)
        {
            tracing::warn!(%hash, "discarded a block that a reader found damaged");
            slot.send(DeleteBatch { blocks: model.blocks.clone(), evictions: vec![eviction] });
            self.service.metrics.discarded();
        }
        call.answer(&Acknowledged {}).await
    }

    fn status(&self) -> StoreStatusReply {
        let totals = self.totals();
        StoreStatusReply {
            streams: self.models.len() as u32,
            blocks: totals.blocks,
            bytes: totals.bytes,
            leased: totals.leased_blocks,
            evicted: self.service.metrics.evicted_total(),
            caught_up: self.caught_up(),
        }
    }

    fn totals(&self) -> ResidencyTotals {
        let mut all = ResidencyTotals::default();
        for model in self.models.values() {
            let totals = model.index.totals();
            all.blocks += totals.blocks;
            all.bytes += totals.bytes;
            all.leased_blocks += totals.leased_blocks;
            all.leases += totals.leases;
        }
        all
    }

    fn caught_up(&self) -> bool {
        self.adopted && self.models.values().all(|model| model.index.caught_up())
    }

    fn stream_limits(&self) -> StreamLimits {
        let settings = &self.service.settings.kvstore;
        StreamLimits {
            bytes_max: settings.max_bytes,
            age_max: Duration::from_secs(settings.max_age_s),
        }
    }

    /// Lists the streams that exist, after a delay, and gives them today's limits.
    fn adopt(&mut self, after: Duration) {
        let (bus, events) = (self.bus.clone(), self.event_sender.clone());
        let limits = self.stream_limits();
        self.tasks.spawn(async move {
            tokio::time::sleep(after).await;
            let found = bus.stored_models().await;
            for blocks in found.iter().flatten() {
                if let Err(error) = blocks.ensure_stream(limits).await {
                    tracing::warn!(%error, "failed to update a stream's limits");
                }
            }
            let _loop_ended = events.send(Event::Adopted(found)).await;
        });
    }

    async fn on_event(&mut self, event: Event) -> Result<(), bus::PublishError> {
        match event {
            Event::Index(namespace, event) => {
                if let Some(index) = self.index(&namespace) {
                    index.on_event(&event);
                    self.evict(&namespace);
                }
            }
            Event::Adopted(Ok(found)) => {
                tracing::info!(streams = found.len(), "found stored models");
                found.into_iter().for_each(|blocks| self.follow(blocks));
                self.adopted = true;
            }
            Event::Adopted(Err(error)) => {
                tracing::warn!(%error, "failed to list stored models, retrying");
                self.adopt(ADOPT_RETRY);
            }
            Event::Ensured(blocks, call, Ok(())) => {
                let stream = blocks.stream();
                self.follow(blocks);
                return call.answer(&StoreReady { stream }).await;
            }
            // The worker asks again; a reply that says nothing would only hide the failure.
            Event::Ensured(_, _, Err(error)) => {
                tracing::error!(%error, "failed to create a model's stream");
            }
            Event::State(namespace, state) => {
                if let Some(index) = self.index(&namespace) {
                    let expired = index.reconcile(&state);
                    self.service.metrics.expired(expired);
                }
            }
        }
        Ok(())
    }

    /// Reads a model's stream from now on, unless it is being read.
    fn follow(&mut self, blocks: Blocks) {
        let namespace = blocks.namespace().to_owned();
        if self.models.contains_key(&namespace) {
            return;
        }
        tracing::info!(stream = blocks.stream(), "reading a model's stream");
        let settings = &self.service.settings.kvstore;
        let index = StreamIndex::new(ResidencyLimits {
            bytes_max: settings.max_bytes,
            quota_share: settings.quota_share,
        });
        let (mut stream, events) = (blocks.index(), self.event_sender.clone());
        self.models.insert(namespace.clone(), Model { blocks, index });
        self.tasks.spawn(async move {
            loop {
                let event = Event::Index(namespace.clone(), stream.next().await);
                if events.send(event).await.is_err() {
                    return;
                }
            }
        });
    }

    fn evict(&mut self, namespace: &str) {
        let now_ms = self.now_ms();
        // Without a slot in the queue the index forgets nothing, so no forgotten block stays.
        let Ok(slot) = self.deletions.try_reserve() else { return };
        let Some(Model { blocks, index }) = self.models.get_mut(namespace) else { return };
        let start = SystemTime::now();
        let evictions = index.evict(now_ms);
        if !evictions.is_empty() {
            traces::evicted(&self.service.tracer, namespace, evictions.len(), start);
            tracing::debug!(blocks = evictions.len(), "evicted blocks");
            self.service.metrics.evicted(evictions.len());
            slot.send(DeleteBatch { blocks: blocks.clone(), evictions });
        }
    }

    fn tick(&mut self) {
        let now_ms = self.now_ms();
        let namespaces: Vec<_> = self.models.keys().cloned().collect();
        for namespace in &namespaces {
            if let Some(index) = self.index(namespace) {
                index.expire_leases(now_ms);
            }
            self.evict(namespace);
        }
        self.query_states();
        let capacity_bytes = self.service.settings.kvstore.max_bytes * self.models.len() as u64;
        self.service.metrics.show(&self.totals(), capacity_bytes);
        self.service.metrics.show_bus(&self.bus.counters(), self.bus.connected());
        self.show_readiness();
    }

    /// Asks for the extent of every stream that is read, unless an earlier query still runs.
    fn query_states(&mut self) {
        let is_running = self.state_query.as_ref().is_some_and(|query| !query.is_finished());
        if is_running || !self.bus.connected() {
            return;
        }
        let read: Vec<_> = self
            .models
            .iter()
            .filter(|(_, model)| model.index.caught_up())
            .map(|(namespace, model)| (namespace.clone(), model.blocks.clone()))
            .collect();
        let events = self.event_sender.clone();
        self.state_query = Some(self.tasks.spawn(async move {
            for (namespace, blocks) in read {
                match blocks.state().await {
                    Ok(state) => {
                        let _loop_ended = events.send(Event::State(namespace, state)).await;
                    }
                    Err(error) => tracing::warn!(%error, "failed to query a stream's state"),
                }
            }
        }));
    }

    fn show_readiness(&self) {
        let readiness = &self.service.readiness;
        if self.bus.connected() {
            readiness.met(NATS);
        } else {
            readiness.unmet(NATS, "not connected");
        }
        if self.caught_up() {
            readiness.met(INDEX);
        } else {
            readiness.unmet(INDEX, "reading the streams of stored models");
        }
    }
}
