//! The requests in flight and the finished ones of a run.

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
use crate::send::turns::{Next, TurnChains};
use crate::send::{Display, OnFull, RunError, RunOutcome};

/// Reason for the end of a run under `OnFull::Abort`.
const TOO_MANY: &str = "too many requests in flight";

fn panicked(error: JoinError) -> RunError {
    RunError::TaskPanicked(error.to_string())
}

/// A run in progress.
pub(crate) struct Flight {
    pacer: Pacer,
    tasks: JoinSet<RequestRecord>,
    over: Vec<RequestRecord>,
    cut_short: Option<String>,
    chains: TurnChains,
    phases: Vec<Phase>,
    /// Measured requests that are not finished.
    measured_left: usize,
    cools_down: bool,
    cooldown_hit: bool,
    beyond_end: usize,
}

impl Flight {
    pub(crate) fn new(plan: &Plan, chains: TurnChains, pacer: Pacer) -> Self {
        let phases: Vec<Phase> = plan.requests.iter().map(|request| request.phase).collect();
        Self {
            pacer,
            tasks: JoinSet::new(),
            // Allocated in full, because growing would delay the sends.
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

    /// Sends due requests until the plan is through, until only cool-down requests are left, or
    /// until the run is stopped.
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
                        if over.is_some_and(|record| self.finish_request(record)) && abort_on_full {
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
                    if self.finish_request(record) && abort_on_full {
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

    /// Starts a request. Polls it once before any other task runs, which sends it if a connection
    /// is idle. Returns the record if the request is already over.
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

    /// Waits for the requests in flight until their timeouts, or for `grace` after a stop.
    pub(crate) async fn drain(
        &mut self,
        grace: Duration,
        cancel: &watch::Sender<bool>,
        stop: &mut mpsc::Receiver<String>,
        progress: &mut impl Display,
        live: &Live,
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
                Some(done) = self.tasks.join_next() => { self.finish_request(done.map_err(panicked)?); }
                () = tokio::time::sleep_until(patience), if deadline.is_some() => {
                    // Each request ends at once and returns its record so far.
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

    /// Stores the record of a finished request and schedules the turn that waits for it. Returns
    /// whether the request was dropped.
    fn finish_request(&mut self, record: RequestRecord) -> bool {
        self.count_finished(record.index);
        match self.chains.after(record.index, record.finished_ns) {
            Next::Nothing => {}
            Next::Turn(turn) => self.pacer.schedule(turn),
            Next::BeyondEnd => {
                let turns: Vec<usize> = self.chains.rest(record.index).collect();
                turns.iter().for_each(|turn| self.count_finished(*turn));
                self.beyond_end += turns.len();
                self.pacer.drop_waiting(turns.len());
            }
        }
        let dropped = record.failed_as(FailureClass::Dropped);
        self.over.push(record);
        dropped
    }

    fn count_finished(&mut self, index: usize) {
        self.measured_left -= usize::from(self.phases[index] == Phase::Measured);
    }

    /// Ends the pacing threads and sorts the records.
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
            // Without a stop, only cool-down requests were cancelled.
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
