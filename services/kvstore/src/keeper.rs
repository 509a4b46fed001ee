//! The kvstore's one loop: questions, what the streams tell, and the clock.

use std::collections::BTreeMap;
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
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::metrics::StoreMetrics;
use crate::shelf::Shelf;
use crate::sweeper::{self, SWEEPS_MAX, Sweep};
use crate::{INDEX, NATS, traces};

/// What streams may have told and the loop has not read.
const NEWS_MAX: usize = 1024;
/// Streams that may be made at once.
const ENSURES_MAX: usize = 32;
/// Longest lease: nobody needs a block longer without asking again.
const LEASE_MS_MAX: u32 = 600_000;
const TICK: Duration = Duration::from_millis(500);
const ADOPT_RETRY: Duration = Duration::from_secs(1);

/// What the loop is started with.
pub(crate) struct Keeper {
    pub(crate) settings: Settings,
    pub(crate) instance: String,
    pub(crate) readiness: Readiness,
    pub(crate) metrics: StoreMetrics,
    pub(crate) tracer: Tracer,
    pub(crate) stop: StopToken,
}

impl Keeper {
    /// Connects, adopts what is stored, and serves until told to stop.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let options = BusOptions {
            url: self.settings.nats.url.clone(),
            name: format!("kvstore-{}", self.instance),
            connect_timeout: Duration::from_millis(self.settings.nats.connect_timeout_ms),
        };
        let stop = self.stop.clone();
        let connecting = Bus::connect_with_retry(options, stop.cancelled());
        let Some(bus) = connecting.await else { return Ok(()) };
        let (told, news) = mpsc::channel(NEWS_MAX);
        let (sweeps, waiting) = mpsc::channel(SWEEPS_MAX);
        let mut running = JoinSet::new();
        running.spawn(sweeper::run(waiting));
        if self.tracer.is_keeping() {
            running.spawn(traces::hear(bus.clone(), self.tracer.clone()));
        }
        let questions = Questions::serve(&bus).await?;
        let work = Work {
            keeper: self,
            bus,
            shelves: BTreeMap::new(),
            adopted: false,
            started: Instant::now(),
            told,
            sweeps,
            running,
        };
        work.run(questions, news).await;
        Ok(())
    }
}

/// The subjects served.
struct Questions {
    ensure: Incoming<Ensure>,
    lookup: Incoming<Lookup>,
    release: Incoming<Release>,
    discard: Incoming<Discard>,
    status: Incoming<StoreStatus>,
}

impl Questions {
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

/// What the loop is told by its own tasks.
enum News {
    /// By a stream.
    Index(String, IndexEvent),
    /// Streams found at the start.
    Adopted(Result<Vec<Blocks>, StateError>),
    /// A stream exists now, or does not.
    Ensured(Blocks, Box<Call<Ensure>>, Result<(), EnsureError>),
    /// How far a stream reaches.
    State(String, StreamState),
}

/// The loop's state.
struct Work {
    keeper: Keeper,
    bus: Bus,
    /// One index per model, by namespace, with the handle to its stream.
    shelves: BTreeMap<String, (Blocks, Shelf)>,
    /// True when the streams found at the start are being read.
    adopted: bool,
    started: Instant,
    told: mpsc::Sender<News>,
    sweeps: mpsc::Sender<Sweep>,
    running: JoinSet<()>,
}

impl Work {
    async fn run(mut self, mut questions: Questions, mut news: mpsc::Receiver<News>) {
        let stop = self.keeper.stop.clone();
        let mut tick = tokio::time::interval(TICK);
        self.adopt(Duration::ZERO);
        loop {
            let served = tokio::select! {
                () = stop.cancelled() => return,
                Some(news) = news.recv() => self.hear(news).await,
                _ = tick.tick() => {
                    self.tick();
                    Ok(())
                }
                Some(_) = self.running.join_next() => Ok(()),
                Some(call) = questions.lookup.next() => self.look_up(call).await,
                Some(call) = questions.ensure.next() => {
                    self.ensure(call);
                    Ok(())
                }
                Some(call) = questions.release.next() => {
                    if let Some((_, shelf)) = self.shelf(&call.message.fingerprint.namespace()) {
                        shelf.release(call.message.key);
                    }
                    call.answer(&Acknowledged {}).await
                }
                Some(call) = questions.discard.next() => self.discard(call).await,
                Some(call) = questions.status.next() => {
                    let status = self.status();
                    call.answer(&status).await
                }
            };
            if let Err(error) = served {
                tracing::warn!(%error, "an answer was not sent");
            }
        }
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn shelf(&mut self, namespace: &str) -> Option<&mut (Blocks, Shelf)> {
        self.shelves.get_mut(namespace)
    }

    async fn look_up(&mut self, call: Call<Lookup>) -> Result<(), bus::PublishError> {
        let start = SystemTime::now();
        let now_ms = self.now_ms();
        let Lookup { fingerprint, blocks, key, lease_ms } = &call.message;
        let asked = &blocks[..blocks.len().min(LOOKUP_BLOCKS_MAX)];
        let lease_ms = (*lease_ms).min(LEASE_MS_MAX);
        let stored = match self.shelf(&fingerprint.namespace()) {
            Some((_, shelf)) => shelf.lookup(asked, *key, lease_ms, now_ms),
            None => 0,
        };
        self.keeper.metrics.looked_up(asked.len(), stored);
        let (tracer, caller) = (&self.keeper.tracer, call.context.traceparent.as_deref());
        traces::looked_up(tracer, caller, key, (asked.len(), stored), start);
        call.answer(&LookupReply { stored: stored as u32 }).await
    }

    /// Makes the stream in a task of its own: JetStream may take its time.
    fn ensure(&mut self, call: Call<Ensure>) {
        if ENSURES_MAX + self.shelves.len() < self.running.len() {
            tracing::warn!("too many streams are being made; this one is left to be asked again");
            return;
        }
        let blocks = self.bus.blocks(&call.message.fingerprint);
        let (told, limits) = (self.told.clone(), self.stream_limits());
        self.running.spawn(async move {
            let ensured = blocks.ensure_stream(limits).await;
            let _loop_ended = told.send(News::Ensured(blocks, Box::new(call), ensured)).await;
        });
    }

    async fn discard(&mut self, call: Call<Discard>) -> Result<(), bus::PublishError> {
        let Discard { fingerprint, block } = call.message;
        let sweeps = self.sweeps.clone();
        let Ok(place) = sweeps.try_reserve() else {
            tracing::warn!(%block, "damaged block stays: too many deletions wait");
            return Ok(());
        };
        if let Some((blocks, shelf)) = self.shelf(&fingerprint.namespace())
            && let Some(doomed) = shelf.discard(block)
        {
            tracing::warn!(%block, "a reader found this block damaged");
            place.send(Sweep { blocks: blocks.clone(), doomed: vec![doomed] });
            self.keeper.metrics.discarded();
        }
        call.answer(&Acknowledged {}).await
    }

    fn status(&self) -> StoreStatusReply {
        let totals = self.totals();
        StoreStatusReply {
            streams: self.shelves.len() as u32,
            blocks: totals.blocks,
            bytes: totals.bytes,
            leased: totals.leased_blocks,
            evicted: self.keeper.metrics.evicted_total(),
            caught_up: self.caught_up(),
        }
    }

    fn totals(&self) -> ResidencyTotals {
        let mut all = ResidencyTotals::default();
        for (_, shelf) in self.shelves.values() {
            let totals = shelf.totals();
            all.blocks += totals.blocks;
            all.bytes += totals.bytes;
            all.leased_blocks += totals.leased_blocks;
            all.leases += totals.leases;
        }
        all
    }

    fn caught_up(&self) -> bool {
        self.adopted && self.shelves.values().all(|(_, shelf)| shelf.caught_up())
    }

    fn stream_limits(&self) -> StreamLimits {
        let settings = &self.keeper.settings.kvstore;
        StreamLimits {
            bytes_max: settings.max_bytes,
            age_max: Duration::from_secs(settings.max_age_s),
        }
    }

    /// Finds the streams that are there already, and sees that they have today's limits.
    fn adopt(&mut self, after: Duration) {
        let (bus, told, limits) = (self.bus.clone(), self.told.clone(), self.stream_limits());
        self.running.spawn(async move {
            tokio::time::sleep(after).await;
            let found = bus.stored_models().await;
            for blocks in found.iter().flatten() {
                if let Err(error) = blocks.ensure_stream(limits).await {
                    tracing::warn!(%error, "a stored model keeps its old limits");
                }
            }
            let _loop_ended = told.send(News::Adopted(found)).await;
        });
    }

    async fn hear(&mut self, news: News) -> Result<(), bus::PublishError> {
        match news {
            News::Index(namespace, event) => {
                if let Some((_, shelf)) = self.shelf(&namespace) {
                    shelf.told(&event);
                    self.evict(&namespace);
                }
            }
            News::Adopted(Ok(found)) => {
                tracing::info!(streams = found.len(), "stored models found");
                found.into_iter().for_each(|blocks| self.follow(blocks));
                self.adopted = true;
            }
            News::Adopted(Err(error)) => {
                tracing::warn!(%error, "stored models are not known yet");
                self.adopt(ADOPT_RETRY);
            }
            News::Ensured(blocks, call, Ok(())) => {
                let stream = blocks.stream();
                self.follow(blocks);
                return call.answer(&StoreReady { stream }).await;
            }
            // The worker asks again; a reply that says nothing would only hide the lack.
            News::Ensured(_, _, Err(error)) => tracing::error!(%error, "no stream for a model"),
            News::State(namespace, state) => {
                if let Some((_, shelf)) = self.shelf(&namespace) {
                    let lost = shelf.reconcile(&state);
                    self.keeper.metrics.expired(lost);
                }
            }
        }
        Ok(())
    }

    /// Reads a model's stream from now on, unless it is being read.
    fn follow(&mut self, blocks: Blocks) {
        let namespace = blocks.namespace().to_owned();
        if self.shelves.contains_key(&namespace) {
            return;
        }
        tracing::info!(stream = blocks.stream(), "model's blocks are followed");
        let settings = &self.keeper.settings.kvstore;
        let shelf = Shelf::new(ResidencyLimits {
            bytes_max: settings.max_bytes,
            quota_share: settings.quota_share,
        });
        let (mut index, told) = (blocks.index(), self.told.clone());
        self.shelves.insert(namespace.clone(), (blocks, shelf));
        self.running.spawn(async move {
            loop {
                let news = News::Index(namespace.clone(), index.next().await);
                if told.send(news).await.is_err() {
                    return;
                }
            }
        });
    }

    fn evict(&mut self, namespace: &str) {
        let now_ms = self.now_ms();
        // Without a place in the queue nothing is forgotten, so nothing forgotten stays.
        let Ok(place) = self.sweeps.try_reserve() else { return };
        let Some((blocks, shelf)) = self.shelves.get_mut(namespace) else { return };
        let start = SystemTime::now();
        let doomed = shelf.evict(now_ms);
        if !doomed.is_empty() {
            traces::evicted(&self.keeper.tracer, namespace, doomed.len(), start);
            tracing::debug!(blocks = doomed.len(), "evicted");
            self.keeper.metrics.evicted(doomed.len());
            place.send(Sweep { blocks: blocks.clone(), doomed });
        }
    }

    fn tick(&mut self) {
        let now_ms = self.now_ms();
        let namespaces: Vec<_> = self.shelves.keys().cloned().collect();
        for namespace in &namespaces {
            if let Some((_, shelf)) = self.shelf(namespace) {
                shelf.expire(now_ms);
            }
            self.evict(namespace);
        }
        self.ask_states();
        let capacity_bytes = self.keeper.settings.kvstore.max_bytes * self.shelves.len() as u64;
        self.keeper.metrics.show(&self.totals(), capacity_bytes);
        self.keeper.metrics.show_bus(&self.bus.counters(), self.bus.connected());
        self.show_readiness();
    }

    /// Asks the streams how far they reach; not while earlier questions are open.
    fn ask_states(&mut self) {
        let asked: Vec<_> = self
            .shelves
            .iter()
            .filter(|(_, (_, shelf))| shelf.caught_up())
            .map(|(namespace, (blocks, _))| (namespace.clone(), blocks.clone()))
            .collect();
        // Beside the sweeper, who hears verdicts, and one reader per model.
        if 2 + self.shelves.len() < self.running.len() || !self.bus.connected() {
            return;
        }
        let told = self.told.clone();
        self.running.spawn(async move {
            for (namespace, blocks) in asked {
                match blocks.state().await {
                    Ok(state) => {
                        let _loop_ended = told.send(News::State(namespace, state)).await;
                    }
                    Err(error) => tracing::warn!(%error, "a stream does not say what it holds"),
                }
            }
        });
    }

    fn show_readiness(&self) {
        let readiness = &self.keeper.readiness;
        match self.bus.connected() {
            true => readiness.met(NATS),
            false => readiness.unmet(NATS, "not connected"),
        }
        match self.caught_up() {
            true => readiness.met(INDEX),
            false => readiness.unmet(INDEX, "reading what is stored"),
        }
    }
}
