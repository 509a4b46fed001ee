//! A cluster from one seed, run until it is quiet.

use std::collections::BTreeMap;

use protocol::{Role, WorkerId};
use scheduling::route::Disaggregate;

use crate::end::{End, Outcome};
use crate::fabric::{Fabric, Network};
use crate::gateway::Gateway;
use crate::load::{Ask, Load, asks};
use crate::message::{Envelope, GatewayTimer, ToGateway, WorkerTimer};
use crate::model::{self, Costs};
use crate::store::Store;
use crate::worker::{Worker, WorkerLimits};

/// After the last request has ended: longer than any lease or retry lasts.
const REST_US: u64 = 12_000_000;
/// A run that is not quiet by then is a defect.
const END_MS_MAX: u64 = 600_000;
/// Workers tell their state before the first request arrives.
const WARM_UP_US: u64 = 100_000;

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// A worker dies, with everything it has.
    Kill(Role, usize),
    /// A dead worker comes back under its old name, empty.
    Restart(Role, usize),
    /// The network behaves differently from now on.
    Network(Network),
}

/// A cluster before its run.
pub struct Cluster {
    seed: u64,
    workers: BTreeMap<WorkerId, Worker>,
    dead: BTreeMap<WorkerId, Role>,
    limits: WorkerLimits,
    policy: Disaggregate,
    network: Network,
    faults: Vec<(u64, Fault)>,
    load: Vec<Ask>,
    lives: u64,
}

impl Cluster {
    /// No workers, no load.
    pub fn seeded(seed: u64) -> Self {
        Self {
            seed,
            workers: BTreeMap::new(),
            dead: BTreeMap::new(),
            limits: WorkerLimits {
                pages: 256,
                sequences_max: 16,
                queue_max: 64,
                context_tokens: 512,
                costs: Costs::default(),
            },
            policy: Disaggregate::Always,
            network: Network::default(),
            faults: Vec::new(),
            load: Vec::new(),
            lives: 0,
        }
    }

    /// KV pages of each worker added after this.
    #[must_use]
    pub fn pages(mut self, pages: u32) -> Self {
        self.limits.pages = pages;
        self
    }

    /// Longest sequence of each worker added after this.
    #[must_use]
    pub fn context(mut self, tokens: usize) -> Self {
        self.limits.context_tokens = tokens;
        self
    }

    /// Sets the speed of the workers added after this.
    #[must_use]
    pub fn costs(mut self, costs: Costs) -> Self {
        self.limits.costs = costs;
        self
    }

    /// Adds prefill workers.
    #[must_use]
    pub fn prefill(self, count: usize) -> Self {
        self.add(Role::Prefill, count)
    }

    /// Adds decode workers.
    #[must_use]
    pub fn decode(self, count: usize) -> Self {
        self.add(Role::Decode, count)
    }

    /// When prefill and decode run apart.
    #[must_use]
    pub fn policy(mut self, policy: Disaggregate) -> Self {
        self.policy = policy;
        self
    }

    /// Sets the delays and losses of messages.
    #[must_use]
    pub fn network(mut self, network: Network) -> Self {
        self.network = network;
        self
    }

    /// Sets the requests of clients.
    #[must_use]
    pub fn offer(mut self, load: Load) -> Self {
        self.load = asks(&load, self.seed);
        self
    }

    /// Something goes wrong at this time.
    #[must_use]
    pub fn at_ms(mut self, at_ms: u64, fault: Fault) -> Self {
        self.faults.push((at_ms, fault));
        self
    }

    fn add(mut self, role: Role, count: usize) -> Self {
        for index in 0..count {
            let id = name(role, index);
            let worker = Worker::start(id.clone(), role, self.lives, self.limits);
            self.lives += 1;
            self.workers.insert(id, worker);
        }
        self
    }

    /// Runs until every request has ended and everything left has had time to be freed.
    ///
    /// # Panics
    /// If it does not become quiet: nothing may hang.
    pub fn run_until_quiet(self) -> End {
        let seed = self.seed;
        let mut run = Run {
            fabric: Fabric::new(self.network, seed),
            gateway: Gateway::new(self.policy),
            store: Store::default(),
            arrivals_left: self.load.len(),
            cluster: self,
        };
        run.begin();
        let mut quiet_since_us = None;
        while let Some(envelope) = run.fabric.queue.pop() {
            run.happen(envelope);
            let now_us = run.fabric.queue.now_us();
            assert!(run.fabric.queue.now_ms() < END_MS_MAX, "seed {seed}: not quiet");
            if run.gateway.busy() || run.arrivals_left > 0 {
                quiet_since_us = None;
            } else if quiet_since_us.get_or_insert(now_us).saturating_add(REST_US) < now_us {
                break;
            }
        }
        run.end()
    }
}

fn name(role: Role, index: usize) -> WorkerId {
    format!("{}-{index}", role.as_str()).parse().expect("a role and a number are a plain name")
}

struct Run {
    cluster: Cluster,
    fabric: Fabric,
    gateway: Gateway,
    store: Store,
    arrivals_left: usize,
}

impl Run {
    fn begin(&mut self) {
        for worker in self.cluster.workers.values_mut() {
            worker.timer(WorkerTimer::Second, &mut self.fabric);
        }
        let second = Envelope::GatewayTimer(GatewayTimer::Second);
        self.fabric.timer(WARM_UP_US, second);
        for (index, ask) in self.cluster.load.iter().enumerate() {
            self.fabric.timer(WARM_UP_US + ask.at_us, Envelope::Arrival(index));
        }
        for (index, (at_ms, _)) in self.cluster.faults.iter().enumerate() {
            self.fabric.timer(at_ms * 1_000, Envelope::Fault(index));
        }
    }

    fn happen(&mut self, envelope: Envelope) {
        let Self { cluster, fabric, gateway, store, .. } = self;
        match envelope {
            Envelope::ToWorker(id, message) => match cluster.workers.get_mut(&id) {
                Some(worker) => worker.receive(message, fabric),
                None if message.is_request_of_gateway() => {
                    fabric.send(Envelope::ToGateway(id, ToGateway::NoResponders));
                }
                None => {}
            },
            Envelope::ToGateway(worker, message) => gateway.receive(worker, message, fabric),
            Envelope::ToStore(message) => store.receive(message, fabric),
            Envelope::WorkerTimer { worker, life, timer } => {
                if let Some(found) = cluster.workers.get_mut(&worker)
                    && found.life == life
                {
                    found.timer(timer, fabric);
                }
            }
            Envelope::GatewayTimer(timer) => gateway.timer(timer, fabric),
            Envelope::Arrival(index) => {
                self.arrivals_left -= 1;
                gateway.arrive(index, cluster.load[index].clone(), fabric);
            }
            Envelope::Fault(index) => self.fault(index),
        }
    }

    fn fault(&mut self, index: usize) {
        let Self { cluster, fabric, store, gateway, .. } = self;
        let (_, fault) = cluster.faults[index];
        gateway.log.push(format!("{} {fault:?}", fabric.queue.now_us()));
        match fault {
            Fault::Kill(role, index) => {
                let id = name(role, index);
                store.forget(&id);
                if cluster.workers.remove(&id).is_some() {
                    cluster.dead.insert(id, role);
                }
            }
            Fault::Restart(role, index) => {
                let id = name(role, index);
                if cluster.dead.remove(&id).is_some() {
                    let mut worker = Worker::start(id.clone(), role, cluster.lives, cluster.limits);
                    cluster.lives += 1;
                    worker.timer(WorkerTimer::Second, fabric);
                    cluster.workers.insert(id, worker);
                }
            }
            Fault::Network(network) => fabric.set_network(network),
        }
    }

    fn end(self) -> End {
        let results: Vec<_> = self.gateway.results().collect();
        let wrong = results.iter().enumerate().filter(|(_, (outcome, ask, delivered))| {
            let Ask { prompt, stopping, .. } = ask;
            let right = model::undisturbed(prompt, stopping.max_tokens, &stopping.stop_tokens);
            match outcome {
                Outcome::Answered => right != *delivered,
                _ => !right.starts_with(delivered),
            }
        });
        End {
            wrong: wrong.map(|(index, _)| index).collect(),
            outcomes: results.iter().map(|(outcome, ..)| (*outcome).clone()).collect(),
            pools: self.cluster.workers.values().map(Worker::pool).collect(),
            preemptions: self.cluster.workers.values().map(Worker::preempted).sum(),
            blocks: self.store.blocks(),
            end_ms: self.fabric.queue.now_ms(),
            retries: self.gateway.retries,
            predictions: self.gateway.predictions.clone(),
            log: self.gateway.log.clone(),
        }
    }
}
