//! The requests in flight and those that are over: sends what is due, waits for the last, and
//! never slows the schedule.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use crate::plan::{Phase, Plan};
use crate::send::due::Job;
use crate::send::live::Live;
use crate::send::pacer::Pacer;
use crate::send::record::{FailureClass, RequestRecord};
use crate::send::sending::Sender;
use crate::send::turns::{Chains, Next};
use crate::send::{Display, OnFull, RunError, RunOutcome};

/// Why a run ends that must not have more in flight.
const TOO_MANY: &str = "too many requests in flight";

fn panicked(error: JoinError) -> RunError {
    RunError::TaskPanicked(error.to_string())
}

/// One run under way.
pub(crate) struct Flight {
    pacer: Pacer,
    tasks: JoinSet<RequestRecord>,
    over: Vec<RequestRecord>,
    cut_short: Option<String>,
    chains: Chains,
    phases: Vec<Phase>,
    /// Measured requests that are not over.
    measured_left: usize,
    cools_down: bool,
    cooldown_hit: bool,
    beyond_end: usize,
}

impl Flight {
    pub(crate) fn new(plan: &Plan, chains: Chains, pacer: Pacer) -> Self {
        let phases: Vec<Phase> = plan.requests.iter().map(|request| request.phase).collect();
        Self {
            pacer,
            tasks: JoinSet::new(),
            // Growing on the way would hold up the sends: this is copied nowhere.
            over: Vec::with_capacity(phases.len()),
            cut_short: None,
            chains,
            measured_left: phases.iter().filter(|phase| **phase == Phase::Measured).count(),
            cools_down: phases.contains(&Phase::Cooldown),
            cooldown_hit: false,
            beyond_end: 0,
            phases,
        }
    }

    /// Sends what is due until the plan is through, the last measured request is over and only the
    /// cool-down is left, or the run is stopped.
    pub(crate) async fn offer(
        &mut self,
        sender: &Arc<Sender>,
        jobs: &mut mpsc::Receiver<Job>,
        stop: &mut mpsc::Receiver<String>,
        progress: &mut impl Display,
    ) -> Result<(), RunError> {
        let abort_on_full = sender.options.on_full == OnFull::Abort;
        while !self.has_cooled_down() {
            tokio::select! {
                biased;
                job = jobs.recv() => match job {
                    Some(job) => {
                        let over = self.begin(sender.clone().request(job)).await;
                        if over.is_some_and(|record| self.keep(record)) && abort_on_full {
                            self.cut_short = Some(TOO_MANY.to_owned());
                            break;
                        }
                    }
                    None => {
                        self.cooldown_hit = self.cools_down && self.measured_left > 0;
                        break;
                    }
                },
                Some(done) = self.tasks.join_next() => {
                    let record = done.map_err(panicked)?;
                    if self.keep(record) && abort_on_full {
                        self.cut_short = Some(TOO_MANY.to_owned());
                        break;
                    }
                }
                Some(reason) = stop.recv() => {
                    self.cut_short = Some(reason);
                    break;
                }
                () = progress.tick() => progress.show(&sender.live.snapshot()),
            }
        }
        self.pacer.stop();
        Ok(())
    }

    /// Begins a request: what can be done at once, its sending if a connection is there, is done
    /// before any other task has a turn. Its record, if it is over already.
    async fn begin(
        &mut self,
        request: impl Future<Output = RequestRecord> + Send + 'static,
    ) -> Option<RequestRecord> {
        let mut request = Box::pin(request);
        let first = std::future::poll_fn(|cx| Poll::Ready(request.as_mut().poll(cx)));
        match first.await {
            Poll::Ready(record) => Some(record),
            Poll::Pending => {
                self.tasks.spawn(request);
                None
            }
        }
    }

    fn has_cooled_down(&self) -> bool {
        self.cools_down && self.measured_left == 0
    }

    /// Waits for what is in flight: until its time-outs, or for a grace after a stop.
    pub(crate) async fn land(
        &mut self,
        grace: Duration,
        cancel: &watch::Sender<bool>,
        stop: &mut mpsc::Receiver<String>,
        (progress, live): (&mut impl Display, &Live),
    ) -> Result<(), RunError> {
        let mut deadline = self.cut_short.is_some().then(|| Instant::now() + grace);
        let mut cancelled = false;
        while !self.tasks.is_empty() {
            if self.has_cooled_down() && !cancelled {
                deadline = Some(Instant::now());
            }
            let patience = deadline.unwrap_or_else(Instant::now);
            tokio::select! {
                biased;
                Some(done) = self.tasks.join_next() => { self.keep(done.map_err(panicked)?); }
                () = tokio::time::sleep_until(patience), if deadline.is_some() => {
                    // Each request notices at once and hands in what it has.
                    cancel.send_replace(true);
                    (deadline, cancelled) = (None, true);
                }
                Some(reason) = stop.recv() => {
                    let first = self.cut_short.is_none();
                    self.cut_short.get_or_insert(reason);
                    deadline = Some(if first { Instant::now() + grace } else { Instant::now() });
                }
                () = progress.tick() => progress.show(&live.snapshot()),
            }
        }
        Ok(())
    }

    /// Keeps the record of a request that is over, and has the turn that waited for it sent; says
    /// whether it was dropped.
    fn keep(&mut self, record: RequestRecord) -> bool {
        self.is_over(record.index);
        match self.chains.after(record.index, record.finished_ns) {
            Next::Nothing => {}
            Next::Turn(follow) => self.pacer.follow(follow),
            Next::BeyondEnd => {
                let turns: Vec<usize> = self.chains.rest(record.index).collect();
                turns.iter().for_each(|turn| self.is_over(*turn));
                self.beyond_end += turns.len();
                self.pacer.give_up(turns.len());
            }
        }
        let dropped = record.failed_as(FailureClass::Dropped);
        self.over.push(record);
        dropped
    }

    fn is_over(&mut self, index: usize) {
        self.measured_left -= usize::from(self.phases[index] == Phase::Measured);
    }

    /// Ends the threads and sorts what is left.
    pub(crate) async fn finish(self, outcome: RunOutcome) -> Result<RunOutcome, RunError> {
        let pacer = self.pacer;
        let joined = tokio::task::spawn_blocking(|| pacer.join()).await;
        joined.map_err(|_| RunError::PacerPanicked)?.map_err(|_| RunError::PacerPanicked)?;
        let (planned, mut all) = (self.phases.len(), self.over);
        all.sort_unstable_by_key(|record| record.index);
        let (mut cancelled, records): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|record| record.failed_as(FailureClass::Cancelled));
        let not_offered = planned - records.len() - cancelled.len() - self.beyond_end;
        let cut_short = self.cut_short;
        let (mut unsent, mut unneeded) = (not_offered, 0);
        if cut_short.is_none() {
            // Nobody stopped it: only the cool-down can have been cut off.
            (unsent, unneeded) = (0, not_offered + cancelled.len());
            cancelled.clear();
        }
        Ok(RunOutcome {
            records,
            cancelled,
            unsent,
            unneeded,
            beyond_end: self.beyond_end,
            cooldown_hit: self.cooldown_hit,
            cut_short,
            ..outcome
        })
    }
}
