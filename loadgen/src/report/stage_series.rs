//! Stages before the first token over time: means of the requests that were due in each bin.

use serde::{Deserialize, Serialize};

use super::bins::Bins;
use super::round3;
use super::stages::{Split, names};
use crate::send::record::RequestRecord;

/// Columns with one entry per bin; `None` for a bin without a reply that has stages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageSeries {
    /// Names of the parts, in the order of a request.
    pub names: Vec<String>,
    /// Mean of each part, one column per name.
    pub parts_ms: Vec<Vec<Option<f64>>>,
    /// Mean time to first token of the same requests, which is the sum of the parts.
    pub ttft_ms: Vec<Option<f64>>,
    /// Number of requests behind each mean.
    pub requests: Vec<u32>,
}

impl StageSeries {
    /// Returns whether there is a column for each name, each with an entry for each of `bins`.
    pub fn is_whole(&self, bins: usize) -> bool {
        let columns = self.parts_ms.iter().chain([&self.ttft_ms]).map(Vec::len);
        self.parts_ms.len() == self.names.len()
            && columns.chain([self.requests.len()]).all(|len| len == bins)
    }
}

/// Breaks down the times to first token of all replies; `None` if the server reports no stages.
pub(super) fn stage_series(bins: &Bins, all: &[&RequestRecord]) -> Option<StageSeries> {
    let answered = all.iter().filter(|record| record.succeeded());
    let (at_ns, split): (Vec<i64>, Vec<Split>) =
        answered.filter_map(|r| Some((r.intended_ns, Split::of(r)?))).unzip();
    if split.is_empty() {
        return None;
    }
    let names = names(&split);
    let sum =
        |of: &dyn Fn(&Split) -> f64| bins.sum(at_ns.iter().copied().zip(split.iter().map(of)));
    let requests = sum(&|_| 1.0);
    let mean = |of: &dyn Fn(&Split) -> f64| -> Vec<Option<f64>> {
        sum(of)
            .into_iter()
            .zip(&requests)
            .map(|(sum, n)| (*n > 0.0).then(|| round3(sum / n)))
            .collect()
    };
    Some(StageSeries {
        parts_ms: names.iter().map(|name| mean(&|split| split.of_name(name))).collect(),
        ttft_ms: mean(&|split| split.ttft_ms),
        requests: requests.iter().map(|n| *n as u32).collect(),
        names,
    })
}

#[cfg(test)]
mod tests {
    use super::super::measured::tests::{outcome, with_stages};
    use super::*;

    #[test]
    fn the_parts_of_every_bin_add_up_to_its_ttft() {
        // Due every 10 ms; the later half reaches the server 20 ms late.
        let (_, mut run) = with_stages(outcome(400, |index| if index < 200 { 0 } else { 20 }));
        run.records[7].reply.timings = None;
        let all: Vec<&RequestRecord> = run.records.iter().collect();
        let bins = Bins::new(0, 4_081_000_000, 400);
        let series = stage_series(&bins, &all).unwrap();
        assert_eq!(series.names, ["client wait", "route", "prefill.compute", "network"]);
        assert!(series.is_whole(series.requests.len()));
        assert_eq!((series.requests[0], series.requests[1]), (49, 50));
        let of_bin =
            |bin: usize| series.parts_ms.iter().map(|c| c[bin].unwrap()).collect::<Vec<_>>();
        assert_eq!(of_bin(0), [0.0, 5.0, 40.0, 5.0]);
        assert_eq!(of_bin(6), [20.0, 5.0, 40.0, 5.0]);
        for bin in (0..series.requests.len()).filter(|bin| series.requests[*bin] > 0) {
            let sum: f64 = of_bin(bin).iter().sum();
            assert!((sum - series.ttft_ms[bin].unwrap()).abs() < 0.01, "bin {bin}: {sum}");
        }
        // The bin after the last arrival has no request.
        assert_eq!((series.ttft_ms.last(), series.requests.last()), (Some(&None), Some(&0)));
        let silent = outcome(400, |_| 0);
        let all: Vec<&RequestRecord> = silent.records.iter().collect();
        assert_eq!(stage_series(&bins, &all), None);
    }
}
