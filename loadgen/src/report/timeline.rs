//! A sample of requests from their intended times to their ends, for swim lanes.

use serde::{Deserialize, Serialize};
use traces::units::NS_PER_S;

use super::round3;
use super::stages::path;
use crate::send::RunOutcome;
use crate::send::record::RequestRecord;

/// Largest number of requests in the sample.
const LANES_MAX: usize = 200;

/// Kind of a part of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Not yet sent, or on the network.
    Wait,
    /// At the server: entry, routing and waiting.
    Queue,
    /// Fetch of stored blocks.
    Fetch,
    /// Computation of the prompt.
    Prefill,
    /// Before the first token, without stages.
    First,
    /// First token to last token.
    Decode,
}

/// Lane of one request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lane {
    /// Index in the plan.
    pub index: usize,
    /// Trace id.
    pub trace_id: String,
    /// Intended time.
    pub at_s: f64,
    /// End.
    pub end_s: f64,
    /// Parts with their start and end.
    pub parts: Vec<(Part, f64, f64)>,
    /// Failure, if the request failed.
    pub failure: Option<String>,
}

/// Sample of requests by intended time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    /// Number of requests that the sample is from.
    pub of: usize,
    /// Lanes.
    pub lanes: Vec<Lane>,
}

/// Returns all requests of a run, or an even sample of many.
pub fn timeline(outcome: &RunOutcome) -> Timeline {
    let mut all: Vec<&RequestRecord> = outcome.records.iter().chain(&outcome.cancelled).collect();
    all.sort_by_key(|r| (r.intended_ns, r.index));
    let drawn = all.len().min(LANES_MAX);
    let chosen = (0..drawn).map(|place| all[place * all.len() / drawn]);
    Timeline { of: all.len(), lanes: chosen.map(lane).collect() }
}

fn lane(record: &RequestRecord) -> Lane {
    let seconds = |ns: i64| round3(ns as f64 / NS_PER_S as f64 * 1e3) / 1e3;
    let mut parts = Vec::new();
    let mut push = |part, from_ns: i64, to_ns: i64| {
        if to_ns > from_ns {
            parts.push((part, seconds(from_ns), seconds(to_ns)));
        }
    };
    let sent = record.written_ns.or(record.dispatched_ns);
    push(Part::Wait, record.intended_ns, sent.unwrap_or(record.finished_ns));
    if let Some(sent) = sent {
        let first = record.reply.first_token_ns();
        let until = first.unwrap_or(record.finished_ns);
        match (&record.reply.timings, first) {
            (Some(timings), Some(first)) => {
                // The stages count on the server's clock, on which the first token is earlier than
                // its arrival here.
                let base = first - (timings.ttft_ms * 1e6) as i64;
                let mut at = sent;
                for stage in path(timings) {
                    let from = (base + (stage.start_ms * 1e6) as i64).clamp(at, until);
                    let to = (from + (stage.duration_ms * 1e6) as i64).min(until);
                    push(Part::Wait, at, from);
                    push(part_of(&stage.name), from, to);
                    at = to;
                }
                push(Part::Wait, at, until);
            }
            _ => push(Part::First, sent, until),
        }
        if let Some(first) = first {
            push(Part::Decode, first, record.reply.last_token_ns().unwrap_or(first));
        }
    }
    Lane {
        index: record.index,
        trace_id: record.trace_id.clone(),
        at_s: seconds(record.intended_ns),
        end_s: seconds(record.finished_ns),
        parts,
        failure: record.failure.as_ref().map(|failure| failure.class.to_string()),
    }
}

fn part_of(stage: &str) -> Part {
    match stage {
        "prefill.kv_fetch" => Part::Fetch,
        "prefill.compute" => Part::Prefill,
        "first_token" => Part::First,
        _ => Part::Queue,
    }
}

#[cfg(test)]
mod tests {
    use super::super::measured::tests::{outcome, with_stages};
    use super::*;

    #[test]
    fn lanes_touch_and_end_with_the_last_token() {
        for (run, expected) in [
            (outcome(3, |_| 2), vec![Part::Wait, Part::First, Part::Decode]),
            (
                with_stages(outcome(3, |_| 2)).1,
                vec![Part::Wait, Part::Wait, Part::Queue, Part::Prefill, Part::Decode],
            ),
        ] {
            let timeline = timeline(&run);
            let lane = &timeline.lanes[1];
            let kinds: Vec<Part> = lane.parts.iter().map(|p| p.0).collect();
            assert_eq!(kinds, expected, "{lane:?}");
            assert!(lane.parts.windows(2).all(|w| (w[0].2 - w[1].1).abs() < 1e-9), "{lane:?}");
            assert_eq!((lane.parts[0].1, lane.parts.last().unwrap().2), (0.01, 0.102));
        }
    }

    #[test]
    fn many_requests_are_sampled_evenly() {
        let timeline = timeline(&outcome(1000, |_| 0));
        assert_eq!((timeline.of, timeline.lanes.len()), (1000, 200));
        assert_eq!(timeline.lanes[1].index, 5);
    }
}
