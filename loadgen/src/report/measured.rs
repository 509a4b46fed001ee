//! The measured requests of a run.

use traces::units::NS_PER_S;

use crate::measure::windows::{Warmup, WindowReport, left_out};
use crate::plan::{Phase, Plan, PlannedRequest};
use crate::send::RunOutcome;
use crate::send::record::{FailureClass, RequestRecord};

/// A run with its window.
pub struct Measured<'a> {
    /// Plan of the run.
    pub plan: &'a Plan,
    /// Records of the run.
    pub outcome: &'a RunOutcome,
    /// Finished measured requests, by intended time.
    pub records: Vec<&'a RequestRecord>,
    /// Measured requests that the operator cancelled.
    pub cancelled: Vec<&'a RequestRecord>,
    /// Intended time of the first measured request.
    pub from_ns: i64,
    /// Intended time of the last measured request.
    pub to_ns: i64,
    /// Window with its counts.
    pub window: WindowReport,
}

impl<'a> Measured<'a> {
    /// Applies `warmup` to choose the window.
    pub fn new(plan: &'a Plan, outcome: &'a RunOutcome, warmup: Warmup) -> Self {
        let mut all: Vec<&RequestRecord> =
            outcome.records.iter().chain(&outcome.cancelled).collect();
        all.sort_by_key(|record| (record.intended_ns, record.index));
        let phase = |record: &RequestRecord| plan.requests[record.index].phase;
        let of_phase = |asked| all.iter().filter(|record| phase(record) == asked).count();
        let (planned_warmup, cooldown_requests) =
            (of_phase(Phase::Warmup), of_phase(Phase::Cooldown));
        all.retain(|record| phase(record) == Phase::Measured);
        let at: Vec<i64> = all.iter().map(|record| record.intended_ns).collect();
        let ttft = |(place, record): (usize, &&RequestRecord)| {
            let time = record.ttft_ns(record.intended_ns).filter(|_| record.succeeded())?;
            Some((place, time as f64))
        };
        let ttft: Vec<(usize, f64)> = all.iter().enumerate().filter_map(ttft).collect();
        let (skipped, settling) = left_out(warmup, &at, &ttft);
        let kept = all.split_off(skipped);
        let (from_ns, to_ns) = match (kept.first(), kept.last()) {
            (Some(first), Some(last)) => (first.intended_ns, last.intended_ns),
            _ => (0, 0),
        };
        let ended = kept.iter().map(|record| record.finished_ns).max().unwrap_or(to_ns);
        let seconds = |ns: i64| ns as f64 / NS_PER_S as f64;
        let window = WindowReport {
            warmup: warmup.to_string(),
            from_s: seconds(from_ns),
            to_s: seconds(to_ns),
            warmup_requests: planned_warmup + skipped,
            measured_requests: kept.len(),
            cooldown_requests,
            drain_s: seconds((ended - to_ns).max(0)),
            settling: Some(settling),
        };
        let (records, cancelled) =
            kept.into_iter().partition(|record| !record.failed_as(FailureClass::Cancelled));
        Self { plan, outcome, records, cancelled, from_ns, to_ns, window }
    }

    /// Returns the planned requests that were sent, in the order of the plan.
    pub fn sent_plan(&self) -> &'a [PlannedRequest] {
        &self.plan.requests[..self.plan.requests.len() - self.outcome.unsent]
    }

    /// Yields the measured requests with a complete response.
    pub fn completed(&self) -> impl Iterator<Item = &'a RequestRecord> {
        self.records.iter().copied().filter(|record| record.succeeded())
    }

    /// Yields the measured requests, including cancelled ones.
    pub fn offered(&self) -> impl Iterator<Item = &'a RequestRecord> {
        self.records.iter().chain(&self.cancelled).copied()
    }

    /// Returns the time from the first measured arrival to the last.
    pub fn span_s(&self) -> f64 {
        (self.to_ns - self.from_ns) as f64 / NS_PER_S as f64
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::{Limits, Report, Workload};
    use super::*;
    use crate::send::record::Failure;
    use crate::send::reply::Reply;
    use crate::send::stages::{Stage, Timings};
    use traces::units::{Nanos, Range};

    const MS: i64 = 1_000_000;

    fn times(n: usize) -> Vec<i64> {
        (0..n as i64).map(|i| i * 10 * MS).collect()
    }

    /// Requests of three tokens, 10 ms apart.
    pub(crate) fn plan(n: usize) -> Plan {
        Plan::synthetic(&times(n), Range { lo: 8, hi: 8 }, Range { lo: 3, hi: 3 }, 1)
    }

    /// A run of that plan, each request `lag_ms` late; tokens 50, 60 and 90 ms after the send.
    pub(crate) fn outcome(n: usize, lag_ms: impl Fn(usize) -> i64) -> RunOutcome {
        let records = times(n)
            .iter()
            .enumerate()
            .map(|(index, at)| {
                let sent = at + lag_ms(index) * MS;
                let tokens = [50, 60, 90].map(|t| sent + t * MS).into_iter().collect();
                RequestRecord {
                    index,
                    intended_ns: *at,
                    issued_ns: sent,
                    dispatched_ns: Some(sent),
                    written_ns: Some(sent),
                    first_byte_ns: Some(sent),
                    reply: Reply { tokens, ..Reply::default() },
                    finished_ns: sent + 91 * MS,
                    failure: None,
                    request_id: String::new(),
                    trace_id: String::new(),
                }
            })
            .collect();
        RunOutcome { records, wall_ns: 2000 * MS, ..RunOutcome::default() }
    }

    /// Adds stages to each request: 5 ms to route, 40 ms to compute.
    pub(crate) fn with_stages(mut run: RunOutcome) -> (Plan, RunOutcome) {
        let stage = |name: &str, start_ms, duration_ms| Stage {
            name: name.to_owned(),
            start_ms,
            duration_ms,
            worker: None,
        };
        for record in &mut run.records {
            let stages = vec![stage("route", 0.0, 5.0), stage("prefill.compute", 5.0, 40.0)];
            record.reply.timings = Some(Timings { ttft_ms: 45.0, stages });
        }
        (plan(run.records.len()), run)
    }

    pub(crate) fn measured<'a>(plan: &'a Plan, run: &'a RunOutcome) -> Measured<'a> {
        Measured::new(plan, run, Warmup::None)
    }

    /// The report of a run with one SLO.
    pub(crate) fn report(plan: &Plan, run: &RunOutcome) -> Report {
        let workload = Workload {
            run_id: "0badcafe".to_owned(),
            started_unix_ms: 1_700_000_000_000,
            url: "http://127.0.0.1:1".to_owned(),
            endpoint: "/v1/completions".to_owned(),
            model: "small".to_owned(),
            context_tokens: None,
            source: "made up".to_owned(),
            prompts: "none".to_owned(),
            seed: 1,
            schedule_digest: plan.digest(),
            command: "loadgen run".to_owned(),
            warnings: Vec::new(),
        };
        let limits = Limits {
            slos: vec!["ttft=52ms".parse().unwrap()],
            lag: Some(Nanos(60_000 * MS)),
            drops_allowed: false,
            server_block_tokens: 16,
            slowest: 3,
            warmup: Warmup::None,
        };
        Report::new(workload, plan, run, &limits)
    }

    #[test]
    fn a_request_belongs_to_the_window_of_its_intended_time() {
        let (plan, mut run) = (plan(100), outcome(100, |index| 500 * i64::from(index == 10)));
        let cut = Failure { class: FailureClass::Cancelled, message: String::new() };
        let mut last = run.records.pop().unwrap();
        last.failure = Some(cut);
        run.cancelled.push(last);
        let window = Measured::new(&plan, &run, Warmup::Time(Nanos(100 * MS)));
        // Number 10, due at 100 ms and sent half a second later, is the first measured one.
        assert_eq!(window.records[0].index, 10);
        assert_eq!((window.records.len(), window.cancelled.len()), (89, 1));
        assert_eq!((window.window.warmup_requests, window.window.measured_requests), (10, 90));
        assert_eq!((window.window.from_s, window.window.to_s), (0.1, 0.99));
        // The plan's own warm-up and cool-down are in no figure either.
        let mut phased = plan.clone();
        phased.requests[0].phase = Phase::Warmup;
        phased.requests[98].phase = Phase::Cooldown;
        let inner = Measured::new(&phased, &run, Warmup::None);
        assert_eq!(
            (inner.records.len(), inner.cancelled.len(), inner.window.from_s),
            (97, 1, 0.01)
        );
        assert_eq!((inner.window.warmup_requests, inner.window.cooldown_requests), (1, 1));
        let nothing = Measured::new(&plan, &run, Warmup::Count(1000));
        assert_eq!((nothing.records.len(), nothing.span_s()), (0, 0.0));
    }
}
