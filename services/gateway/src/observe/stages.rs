//! The stages of a request, for a client that asks for them. Pure but for the lock that dispatcher and
//! response share.
//!
//! **Invariant**: each stage begins where its predecessor ended, whatever other machines' clocks say.
//! The stages up to the first token add up to the time to the first token.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use axum::http::HeaderMap;
use chassis::clock::epoch_us;
use chassis::telemetry::names::stage;
use protocol::{LegStages, Role, WorkerId};
use serde_json::{Value, json};

use crate::error::ApiError;

/// The request header that asks for stages.
const HEADER: &str = "x-tandem-timings";
/// The only value of the header.
const STAGES: &str = "stages";

/// Returns true if a request asks for its stages.
pub(crate) fn asked_for(headers: &HeaderMap) -> Result<bool, ApiError> {
    match headers.get(HEADER).map(|value| value.as_bytes()) {
        None => Ok(false),
        Some(value) if value == STAGES.as_bytes() => Ok(true),
        Some(value) => {
            let value = String::from_utf8_lossy(&value[..value.len().min(64)]).into_owned();
            let message = format!("{HEADER} is {value:?}, expected {STAGES:?}");
            Err(ApiError::invalid(HEADER, message))
        }
    }
}

/// One stage, in microseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stage {
    name: &'static str,
    us: Range<u64>,
    worker: Option<WorkerId>,
    attempt: u32,
}

#[derive(Clone, Debug, Default)]
struct Notes {
    stages: Vec<Stage>,
    attempt: u32,
    sent_us: u64,
    /// The worker that generates, and since when in microseconds.
    generating: Option<(WorkerId, u64)>,
}

/// The stage notes of one choice; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct StageNotes {
    notes: Arc<Mutex<Notes>>,
}

impl StageNotes {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a stage of the gateway.
    pub(crate) fn stage(&self, name: &'static str, time: Range<SystemTime>) {
        self.notes().push(name, epoch_us(time.start)..epoch_us(time.end), None);
    }

    /// Notes that an attempt was sent to workers.
    pub(crate) fn sent(&self, attempt: u32, sent: SystemTime) {
        let mut notes = self.notes();
        (notes.attempt, notes.sent_us) = (attempt, epoch_us(sent));
    }

    /// Notes the stages of a leg, which its first event, sent at `sent_us`, reports. The worker
    /// continues to generate if `generates`.
    pub(crate) fn leg(&self, reported: &LegStages, sent_us: u64, generates: bool) {
        let [queue, fetch, compute] = match reported.role {
            Role::Prefill => {
                [stage::PREFILL_QUEUE, stage::PREFILL_KV_FETCH, stage::PREFILL_COMPUTE]
            }
            Role::Decode => [stage::DECODE_QUEUE, stage::DECODE_KV_PULL, stage::DECODE_FIRST_STEP],
        };
        let mut notes = self.notes();
        let mut start = notes.sent_us;
        for (name, end) in
            [(queue, reported.admitted_us), (fetch, reported.fetched_us), (compute, sent_us)]
        {
            let end = end.clamp(start, sent_us.max(start));
            notes.push(name, start..end, Some(reported.worker.clone()));
            start = end;
        }
        if generates {
            notes.generating = Some((reported.worker.clone(), start));
        }
    }

    /// Notes the end of generating.
    pub(crate) fn generated(&self, at_us: u64) {
        self.notes().generated(at_us);
    }

    /// Notes a lost attempt, whose last event arrived at `since` and which was given up at `now`.
    pub(crate) fn lost(&self, since: SystemTime, now: SystemTime) {
        let mut notes = self.notes();
        notes.generated(epoch_us(since));
        notes.push(stage::LOST_ATTEMPT, epoch_us(since)..epoch_us(now), None);
    }
}

impl Notes {
    fn push(&mut self, name: &'static str, us: Range<u64>, worker: Option<WorkerId>) {
        let us = us.start..us.end.max(us.start);
        self.stages.push(Stage { name, us, worker, attempt: self.attempt });
    }

    fn generated(&mut self, at_us: u64) {
        if let Some((worker, since)) = self.generating.take() {
            self.push(stage::DECODE_GENERATE, since..at_us, Some(worker));
        }
    }
}

/// The stages of a request: its own, and those of the choice with the first token.
#[derive(Debug)]
pub(crate) struct Timings {
    arrived_us: u64,
    own: Notes,
    choices: Vec<StageNotes>,
    /// The choice with the first token.
    first: usize,
    ttft_ms: Option<f64>,
    written_us: u64,
}

impl Timings {
    /// Returns the timings of a request that arrived at `arrived`.
    pub(crate) fn new(arrived: SystemTime) -> Self {
        Self {
            arrived_us: epoch_us(arrived),
            own: Notes::default(),
            choices: Vec::new(),
            first: 0,
            ttft_ms: None,
            written_us: 0,
        }
    }

    /// Returns the notes of one more choice.
    pub(crate) fn choice(&mut self) -> StageNotes {
        let notes = StageNotes::default();
        self.choices.push(notes.clone());
        notes
    }

    /// Notes the end of tokenizing.
    pub(crate) fn tokenized(&mut self, now: SystemTime) {
        self.own.push(stage::TOKENIZE, self.arrived_us..epoch_us(now), None);
    }

    /// Notes the first token: of choice `index`, sent by its worker at `sent`, written to the client
    /// at `now`, `ttft_ms` after the arrival.
    pub(crate) fn first_token(
        &mut self,
        index: usize,
        sent: SystemTime,
        now: SystemTime,
        ttft_ms: f64,
    ) {
        self.first = index;
        self.ttft_ms = Some(ttft_ms);
        self.written_us = epoch_us(now);
        self.own.push(stage::FIRST_TOKEN, epoch_us(sent)..epoch_us(now), None);
    }

    /// Returns all stages up to `now_us`, by their beginning.
    fn stages(&self, now_us: u64) -> Vec<Stage> {
        let mut all = self.own.clone();
        if let Some(choice) = self.choices.get(self.first) {
            let mut notes = choice.notes().clone();
            notes.generated(now_us);
            all.stages.extend(notes.stages);
        }
        if self.ttft_ms.is_some() {
            all.push(stage::STREAM, self.written_us..now_us, None);
        }
        all.stages.sort_by_key(|stage| (stage.us.start, stage.us.end));
        all.stages
    }

    /// Returns `timings` of the response.
    pub(crate) fn json(&self, now: SystemTime) -> Value {
        let stages = self.stages(epoch_us(now)).into_iter().map(|stage| {
            let mut object = json!({
                "name": stage.name,
                "start_ms": ms(stage.us.start.saturating_sub(self.arrived_us)),
                "duration_ms": ms(stage.us.end - stage.us.start),
            });
            if let Some(worker) = stage.worker {
                object["worker"] = worker.as_str().into();
            }
            if stage.attempt != 0 {
                object["attempt"] = stage.attempt.into();
            }
            object
        });
        json!({ "ttft_ms": self.ttft_ms, "stages": stages.collect::<Vec<_>>() })
    }

    /// Returns the `Server-Timing` header.
    pub(crate) fn header(&self, now: SystemTime) -> String {
        let stages = self.stages(epoch_us(now));
        let entries = stages
            .iter()
            .map(|stage| format!("{};dur={}", stage.name, ms(stage.us.end - stage.us.start)));
        entries.collect::<Vec<_>>().join(", ")
    }
}

fn ms(us: u64) -> f64 {
    us as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn at(us: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(us)
    }

    fn reported(role: Role, admitted_us: u64, fetched_us: u64) -> LegStages {
        LegStages { worker: "w".parse().unwrap(), role, admitted_us, fetched_us }
    }

    /// Names with start and duration in microseconds since the arrival.
    fn shown(timings: &Timings, now: u64) -> Vec<(String, f64, f64)> {
        let json = timings.json(at(now));
        let stages = json["stages"].as_array().unwrap().clone();
        let us = |value: &Value| value.as_f64().unwrap() * 1e3;
        let rows = stages.iter().map(|stage| {
            let name = stage["name"].as_str().unwrap().to_owned();
            (name, us(&stage["start_ms"]).round(), us(&stage["duration_ms"]).round())
        });
        rows.collect()
    }

    fn row(name: &str, start: f64, duration: f64) -> (String, f64, f64) {
        (name.to_owned(), start, duration)
    }

    #[test]
    fn stages_touch_whatever_the_workers_clock_says() {
        let mut timings = Timings::new(at(1_000));
        let notes = timings.choice();
        timings.tokenized(at(1_010));
        notes.stage(stage::ADMIT, at(1_010)..at(1_012));
        notes.stage(stage::ROUTE, at(1_012)..at(1_020));
        notes.sent(0, at(1_020));
        // Admitted before it was sent, fetched after its token was.
        notes.leg(&reported(Role::Prefill, 990, 5_000), 1_090, false);
        timings.first_token(0, at(1_090), at(1_100), 0.1);
        notes.leg(&reported(Role::Decode, 1_030, 1_095), 1_110, true);
        assert_eq!(
            shown(&timings, 1_200),
            [
                row("tokenize", 0.0, 10.0),
                row("admit", 10.0, 2.0),
                row("route", 12.0, 8.0),
                row("prefill.queue", 20.0, 0.0),
                row("decode.queue", 20.0, 10.0),
                row("prefill.kv_fetch", 20.0, 70.0),
                row("decode.kv_pull", 30.0, 65.0),
                row("prefill.compute", 90.0, 0.0),
                row("first_token", 90.0, 10.0),
                row("decode.first_step", 95.0, 15.0),
                row("stream", 100.0, 100.0),
                row("decode.generate", 110.0, 90.0),
            ]
        );
    }

    #[test]
    fn an_attempt_that_is_lost_is_a_stage_of_its_own() {
        let mut timings = Timings::new(at(0));
        let notes = timings.choice();
        timings.tokenized(at(5));
        notes.sent(0, at(5));
        notes.lost(at(5), at(50));
        notes.sent(1, at(60));
        notes.stage(stage::ROUTE, at(50)..at(60));
        notes.leg(&reported(Role::Prefill, 70, 70), 80, true);
        timings.first_token(0, at(80), at(90), 0.09);
        notes.lost(at(120), at(150));
        let rows = shown(&timings, 200);
        assert!(rows.contains(&row("lost_attempt", 5.0, 45.0)), "{rows:?}");
        assert!(rows.contains(&row("decode.generate", 80.0, 40.0)), "{rows:?}");
        assert!(rows.contains(&row("lost_attempt", 120.0, 30.0)), "{rows:?}");
        let json = timings.json(at(200));
        assert_eq!(json["stages"][0]["attempt"], Value::Null);
        assert_eq!(json["stages"][2]["attempt"], 1, "{json:#}");
    }

    #[test]
    fn the_header_is_a_list_of_durations() {
        let mut timings = Timings::new(at(0));
        timings.tokenized(at(1_500));
        assert_eq!(timings.header(at(2_000)), "tokenize;dur=1.5");
    }

    #[test]
    fn only_stages_can_be_asked_for() {
        let mut headers = HeaderMap::new();
        assert_eq!(asked_for(&headers), Ok(false));
        headers.insert(HEADER, "stages".parse().unwrap());
        assert_eq!(asked_for(&headers), Ok(true));
        headers.insert(HEADER, "everything".parse().unwrap());
        assert!(asked_for(&headers).unwrap_err().message.contains("everything"));
    }
}
