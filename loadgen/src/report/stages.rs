//! Breakdown of the time to first token into the server's stages, by groups of request speed.

use serde::{Deserialize, Serialize};
use traces::quantile::quantile;

use super::measured::Measured;
use super::{ms, round3};
use crate::send::record::RequestRecord;
use crate::send::stages::{Stage, Timings};

/// Time from the intended time until the body is written.
pub const CLIENT_WAIT: &str = "client wait";
/// Time that neither the wait of the client nor the stages of the server explain.
pub const NETWORK: &str = "network";

/// Groups of requests by their time to first token: name, from, to.
const GROUPS: [Group; 4] = [
    Group { name: "fastest half", from: 0.0, to: 0.5 },
    Group { name: "p50 to p90", from: 0.5, to: 0.9 },
    Group { name: "p90 to p99", from: 0.9, to: 0.99 },
    Group { name: "slowest 1 %", from: 0.99, to: 1.0 },
];

/// A group of requests, by the shares of faster requests between which it lies.
struct Group {
    name: &'static str,
    from: f64,
    to: f64,
}

/// Stages of one group of requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageGroup {
    /// Name of the group.
    pub name: String,
    /// Number of requests.
    pub requests: usize,
    /// Mean time to first token, which is the sum of the parts.
    pub ttft_ms: f64,
    /// Mean of each part, in the order of the names.
    pub parts_ms: Vec<f64>,
}

/// Stages of the measured requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageReport {
    /// Number of requests with stages.
    pub requests: usize,
    /// Names of the parts, in the order of a request.
    pub names: Vec<String>,
    /// Median of each part over all requests.
    pub p50_ms: Vec<f64>,
    /// 99th percentile of each part over all requests.
    pub p99_ms: Vec<f64>,
    /// Groups from the fastest to the slowest.
    pub groups: Vec<StageGroup>,
    /// Median share of the time to first token that client wait and stages explain.
    pub explained: f64,
}

impl StageReport {
    /// Returns whether every group has one part per name.
    pub fn is_whole(&self) -> bool {
        let parts = self.groups.iter().map(|group| group.parts_ms.len());
        let mut lengths = parts.chain([self.p50_ms.len(), self.p99_ms.len()]);
        lengths.all(|len| len == self.names.len())
    }
}

/// Breaks down the times to first token; `None` if the server reports no stages.
pub fn stages(run: &Measured<'_>) -> Option<StageReport> {
    let mut split: Vec<Split> = run.completed().filter_map(Split::of).collect();
    if split.is_empty() {
        return None;
    }
    split.sort_by(|a, b| a.ttft_ms.total_cmp(&b.ttft_ms));
    let names = names(&split);
    let columns: Vec<Vec<f64>> = names
        .iter()
        .map(|name| {
            let mut values: Vec<f64> = split.iter().map(|s| s.of_name(name)).collect();
            values.sort_unstable_by(f64::total_cmp);
            values
        })
        .collect();
    let of = |q: f64| columns.iter().map(|c| round3(quantile(c, q).unwrap_or(0.0))).collect();
    let mut explained: Vec<f64> = split.iter().map(Split::explained).collect();
    explained.sort_unstable_by(f64::total_cmp);
    Some(StageReport {
        requests: split.len(),
        p50_ms: of(0.5),
        p99_ms: of(0.99),
        groups: GROUPS.iter().filter_map(|group| mean_of(group, &split, &names)).collect(),
        explained: quantile(&explained, 0.5).unwrap_or(0.0),
        names,
    })
}

fn mean_of(group: &Group, split: &[Split], names: &[String]) -> Option<StageGroup> {
    let place = |part: f64| (split.len() as f64 * part).round() as usize;
    let members = split.get(place(group.from)..place(group.to)).filter(|it| !it.is_empty())?;
    let mean = |of: &dyn Fn(&Split) -> f64| {
        round3(members.iter().map(of).sum::<f64>() / members.len() as f64)
    };
    Some(StageGroup {
        name: group.name.to_owned(),
        requests: members.len(),
        ttft_ms: mean(&|split| split.ttft_ms),
        parts_ms: names.iter().map(|name| mean(&|split| split.of_name(name))).collect(),
    })
}

/// Returns the names of all parts: those of the request with the most parts, then further ones.
pub(super) fn names(split: &[Split]) -> Vec<String> {
    let longest = split.iter().max_by_key(|split| split.parts.len());
    let mut names: Vec<String> = Vec::new();
    for (name, _) in longest.into_iter().chain(split).flat_map(|split| &split.parts) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    // The remainder belongs at the end of the stack.
    names.retain(|name| name != NETWORK);
    names.push(NETWORK.to_owned());
    names
}

/// Time to first token of one request, and its parts.
pub(super) struct Split {
    /// Time to first token from the intended time.
    pub(super) ttft_ms: f64,
    parts: Vec<(String, f64)>,
}

impl Split {
    /// Breaks down one request; `None` without stages.
    pub(super) fn of(record: &RequestRecord) -> Option<Self> {
        let timings = record.reply.timings.as_ref()?;
        let ttft_ms = ms(record.ttft_ns(record.intended_ns)?);
        let wait_ms = ms(record.written_ns? - record.intended_ns).clamp(0.0, ttft_ms);
        let mut parts = vec![(CLIENT_WAIT.to_owned(), wait_ms)];
        let mut known = wait_ms;
        for stage in path(timings) {
            let took = stage.duration_ms.min(ttft_ms - known).max(0.0);
            known += took;
            match parts.iter_mut().find(|(name, _)| *name == stage.name) {
                Some((_, sum)) => *sum += took,
                None => parts.push((stage.name, took)),
            }
        }
        parts.push((NETWORK.to_owned(), (ttft_ms - known).max(0.0)));
        Some(Self { ttft_ms, parts })
    }

    /// Returns the duration of the part with this name.
    pub(super) fn of_name(&self, name: &str) -> f64 {
        self.parts.iter().find(|(part, _)| part == name).map_or(0.0, |(_, took)| *took)
    }

    fn explained(&self) -> f64 {
        1.0 - self.of_name(NETWORK) / self.ttft_ms.max(1e-9)
    }
}

/// Returns the stages before the first token, cut where they overlap and at the first token.
pub fn path(timings: &Timings) -> Vec<Stage> {
    let before_first_token = timings.stages.iter().filter(|stage| {
        !stage.name.starts_with("decode.") && !matches!(stage.name.as_str(), "kv.put" | "stream")
    });
    let mut stages: Vec<&Stage> = before_first_token.collect();
    stages.sort_by(|a, b| a.start_ms.total_cmp(&b.start_ms));
    let mut at = 0.0_f64;
    let mut path = Vec::new();
    for stage in stages {
        let from = stage.start_ms.max(at);
        let to = (stage.start_ms + stage.duration_ms).min(timings.ttft_ms);
        if to > from {
            path.push(Stage { start_ms: from, duration_ms: to - from, ..stage.clone() });
            at = to;
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::super::measured::tests::{measured, outcome, with_stages};
    use super::*;

    fn stage(name: &str, start_ms: f64, duration_ms: f64) -> Stage {
        Stage { name: name.to_owned(), start_ms, duration_ms, worker: None }
    }

    #[test]
    fn only_what_the_first_token_waited_for_counts_and_only_once() {
        let timings = Timings {
            ttft_ms: 10.0,
            stages: vec![
                stage("prefill.queue", 1.0, 5.0),
                stage("route", 0.0, 2.0),
                stage("decode.queue", 1.0, 8.0),
                stage("prefill.compute", 6.0, 9.0),
                stage("stream", 9.0, 50.0),
            ],
        };
        let expected = [
            stage("route", 0.0, 2.0),
            stage("prefill.queue", 2.0, 4.0),
            stage("prefill.compute", 6.0, 4.0),
        ];
        assert_eq!(path(&timings), expected);
    }

    #[test]
    fn the_parts_of_a_group_add_up_to_its_time() {
        let run = with_stages(outcome(200, |index| i64::from(index as u32 % 7)));
        let plan = run.0;
        let outcome = run.1;
        let report = stages(&measured(&plan, &outcome)).unwrap();
        assert_eq!((report.requests, report.groups.len()), (200, 4));
        assert_eq!(report.names, ["client wait", "route", "prefill.compute", "network"]);
        for group in &report.groups {
            let sum: f64 = group.parts_ms.iter().sum();
            assert!((sum - group.ttft_ms).abs() < 0.01, "{group:?}");
        }
        assert_eq!(report.groups.iter().map(|g| g.requests).sum::<usize>(), 200);
        // 45 of the 50 ms after the send are stages of the server.
        assert_eq!(report.p50_ms, [3.0, 5.0, 40.0, 5.0]);
    }

    #[test]
    fn a_server_that_says_nothing_has_no_stages() {
        let run = outcome(10, |_| 0);
        let plan = super::super::measured::tests::plan(10);
        assert_eq!(stages(&measured(&plan, &run)), None);
    }
}
