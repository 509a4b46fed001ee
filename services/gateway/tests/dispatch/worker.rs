//! A worker without a model: honest about the protocol, and scripted to misbehave.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bus::{Bus, Context};
use chassis::StopToken;
use protocol::control::MissedReply;
use protocol::*;
use tokio::task::JoinSet;

/// The ways in which a worker departs from the protocol.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script {
    pub(crate) refuse: Option<ErrorClass>,
    /// Dies instead of sending this index.
    pub(crate) die_at: Option<u32>,
    /// Sends these only when asked for.
    pub(crate) lose: BTreeSet<u32>,
    /// Sends every token twice.
    pub(crate) repeat: bool,
    /// Between two tokens.
    pub(crate) pace: Duration,
    /// Fails instead of sending this index.
    pub(crate) fail_at: Option<u32>,
}

#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) jobs: Vec<(Job, Option<String>)>,
    pub(crate) cancels: Vec<Cancel>,
    pub(crate) active: BTreeMap<RequestKey, StopToken>,
    pub(crate) kept: BTreeMap<RequestKey, u32>,
    remembered: BTreeMap<RequestKey, Vec<Event>>,
    prompt_done: BTreeSet<RequestKey>,
}

#[derive(Clone)]
pub(crate) struct Worker {
    pub(crate) id: WorkerId,
    role: Role,
    script: Script,
    bus: Bus,
    pub(crate) seen: Arc<Mutex<Seen>>,
    life: StopToken,
}

pub(crate) fn files() -> FileDigest {
    FileDigest([5; 32])
}

/// The token at `index` of the output: depends on the request alone, as sampling does.
pub(crate) fn token_at(prompt: &[TokenId], index: u32) -> TokenId {
    prompt.iter().sum::<u32>() * 31 + index
}

fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64
}

impl Worker {
    /// Starts one; it serves until it dies or `tasks` is dropped.
    pub(crate) async fn start(
        bus: &Bus,
        name: &str,
        role: Role,
        script: Script,
        tasks: &mut JoinSet<()>,
    ) -> Self {
        let worker = Self {
            id: name.parse().unwrap(),
            role,
            script,
            bus: bus.clone(),
            seen: Arc::default(),
            life: StopToken::new(),
        };
        macro_rules! serve {
            ($message:ty, $answer:expr) => {
                let mut incoming = bus.serve_worker::<$message>(&worker.id).await.unwrap();
                let serving = worker.clone();
                let life = worker.life.clone();
                tasks.spawn(async move {
                    let mut legs = JoinSet::new();
                    let serve = async {
                        while let Some(call) = incoming.next().await {
                            let reply = $answer(&serving, &call.message, &call.context, &mut legs);
                            let _ = call.responder.answer(&reply).await;
                        }
                    };
                    life.run_until_cancelled(serve).await;
                });
            };
        }
        serve!(Job, Self::job);
        serve!(Keep, Self::keep);
        serve!(Cancel, Self::cancel);
        serve!(Missed, Self::missed);
        serve!(PromptDone, Self::prompt_done);
        let announcing = worker.clone();
        let life = worker.life.clone();
        worker.bus.presence().announce(&worker.state()).await.unwrap();
        tasks.spawn(async move {
            let announce = async {
                loop {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    let _ = announcing.bus.presence().announce(&announcing.state()).await;
                }
            };
            life.run_until_cancelled(announce).await;
        });
        worker
    }

    pub(crate) fn die(&self) {
        self.life.cancel();
    }

    fn state(&self) -> WorkerState {
        WorkerState {
            files: files(),
            fingerprint: ModelFingerprint::new(files(), "f16"),
            sequences_max: 64,
            pool: PoolState { free: 4_096, total: 4_096, ..PoolState::default() },
            ..testbed::idle_worker(self.id.as_str(), self.role)
        }
    }

    fn job(&self, job: &Job, context: &Context, legs: &mut JoinSet<()>) -> Answer {
        job.check().unwrap();
        let mut seen = self.seen.lock().unwrap();
        seen.jobs.push((job.clone(), context.traceparent.clone()));
        if let Some(class) = self.script.refuse {
            return Answer::Refused(Refusal::new(class, "as scripted"));
        }
        let stop = self.life.child_token();
        seen.active.insert(job.key, stop.clone());
        let (worker, job) = (self.clone(), job.clone());
        legs.spawn(async move {
            let key = job.key;
            stop.run_until_cancelled(worker.generate(job)).await;
            worker.seen.lock().unwrap().active.remove(&key);
        });
        Answer::Accepted
    }

    async fn generate(&self, job: Job) {
        let base = job.output.len() as u32;
        let last = job.stopping.max_tokens.max(1) - 1;
        let (first, end) = match &job.leg {
            Leg::Prefill { .. } => (base, base),
            Leg::Decode { .. } => (base + 1, last),
            Leg::Whole => (base, last),
        };
        while matches!(job.leg, Leg::Decode { .. })
            && !self.seen.lock().unwrap().prompt_done.contains(&job.key)
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        for index in first..=end {
            tokio::time::sleep(self.script.pace).await;
            if self.script.die_at == Some(index) {
                return self.die();
            }
            if self.script.fail_at == Some(index) {
                let refusal = Refusal::new(ErrorClass::Retry, "as scripted");
                let failed = Event::Failed(Failure { key: job.key, refusal });
                return self.send(&job, failed, 1).await;
            }
            let event = Event::Token(TokenEvent {
                key: job.key,
                index,
                token: (job.stopping.max_tokens > 0).then(|| token_at(&job.prompt, index)),
                logprob: None,
                finish: (index == last).then_some(Finish::Length),
                opening: (index == base).then(|| Box::new(opening())),
                sent_us: now_us(),
                stages: None,
            });
            let times = if self.script.lose.contains(&index) { 0 } else { 1 };
            self.send(&job, event, times + usize::from(self.script.repeat)).await;
        }
        if let Leg::Prefill { decode } = &job.leg {
            let (key, prefill) = (job.key, self.id.clone());
            let done =
                PromptDone { key, prefill, first_token: None, finished: false, unstored: vec![] };
            let wait = Duration::from_secs(1);
            let _ = self.bus.ask_worker(decode, &done, &Context::default(), wait).await;
        }
    }

    async fn send(&self, job: &Job, event: Event, times: usize) {
        self.seen.lock().unwrap().remembered.entry(job.key).or_default().push(event.clone());
        let batch = TokenBatch { worker: self.id.clone(), events: vec![event] };
        for _ in 0..times {
            self.bus.send_tokens(&job.gateway, &batch).await.unwrap();
        }
    }

    fn prompt_done(&self, done: &PromptDone, _: &Context, _: &mut JoinSet<()>) -> Acknowledged {
        self.seen.lock().unwrap().prompt_done.insert(done.key);
        Acknowledged {}
    }

    fn keep(&self, keep: &Keep, _: &Context, _: &mut JoinSet<()>) -> KeepReply {
        let mut seen = self.seen.lock().unwrap();
        let mut unknown = keep.keys.clone();
        unknown.retain(|key| !seen.active.contains_key(key));
        for key in &keep.keys {
            *seen.kept.entry(*key).or_default() += 1;
        }
        KeepReply { unknown }
    }

    fn cancel(&self, cancel: &Cancel, _: &Context, _: &mut JoinSet<()>) -> Acknowledged {
        let mut seen = self.seen.lock().unwrap();
        seen.cancels.push(cancel.clone());
        if let Some(stop) = seen.active.remove(&cancel.key) {
            stop.cancel();
        }
        Acknowledged {}
    }

    fn missed(&self, missed: &Missed, _: &Context, _: &mut JoinSet<()>) -> MissedReply {
        let seen = self.seen.lock().unwrap();
        let remembered = seen.remembered.get(&missed.key);
        let newer = remembered.into_iter().flatten().filter(|event| match event {
            Event::Token(token) => missed.from <= token.index,
            Event::Failed(_) => true,
        });
        let known = remembered.is_some() || seen.active.contains_key(&missed.key);
        MissedReply { events: newer.cloned().collect(), known }
    }
}

pub(crate) fn opening() -> Opening {
    Opening { cached_tokens: 16, stored_tokens: 16, prompt_logprobs: Vec::new() }
}
