//! The figures of a run over time, in bins of equal length.

use serde::{Deserialize, Serialize};
use traces::units::NS_PER_S;

use super::bins::{Band, Bins};
use super::cache_series::{CacheSeries, cache_series};
use super::measured::Measured;
use super::ms;
use super::stage_series::{StageSeries, stage_series};
use crate::measure::expected::ExpectedHits;
use crate::send::record::RequestRecord;

/// Columns with one entry per bin.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Length of a bin.
    pub bin_s: f64,
    /// Start of each bin.
    pub from_s: Vec<f64>,
    /// Requests due.
    pub offered: Vec<u32>,
    /// Requests sent.
    pub sent: Vec<u32>,
    /// Requests with a complete response.
    pub completed: Vec<u32>,
    /// Failed requests.
    pub failed: Vec<u32>,
    /// Largest number of requests in flight.
    pub in_flight: Vec<u32>,
    /// Chunks of text received.
    pub tokens: Vec<u64>,
    /// Time to first token by intended time.
    pub ttft_ms: Band,
    /// Time per output token by intended time.
    pub tpot_ms: Band,
    /// Breakdown of the time to first token, if the server reports stages.
    #[serde(default)]
    pub stages: Option<StageSeries>,
    /// Prefix reuse, if any is possible or the server reports it.
    #[serde(default)]
    pub cache: Option<CacheSeries>,
}

impl Series {
    /// Returns whether all columns have the same length.
    pub fn is_whole(&self) -> bool {
        let counts = [&self.offered, &self.sent, &self.completed, &self.failed, &self.in_flight];
        let bands =
            [&self.ttft_ms, &self.tpot_ms].into_iter().flat_map(|b| [&b.p50, &b.p90, &b.p99]);
        let mut lengths = counts.map(Vec::len).into_iter().chain(bands.map(Vec::len));
        let bins = self.from_s.len();
        lengths.all(|len| len == bins)
            && self.tokens.len() == bins
            && self.stages.as_ref().is_none_or(|stages| stages.is_whole(bins))
            && self.cache.as_ref().is_none_or(|cache| cache.is_whole(bins))
    }
}

/// Bins all requests of a run, including warm-up and drain.
pub fn series(run: &Measured<'_>, expected: &ExpectedHits) -> Series {
    let outcome = run.outcome;
    let all: Vec<&RequestRecord> = outcome.records.iter().chain(&outcome.cancelled).collect();
    let Some(first_ns) = all.iter().map(|r| r.intended_ns).min() else { return Series::default() };
    let start_ns = first_ns.min(0);
    let due_ns = all.iter().map(|r| r.intended_ns).max().unwrap_or(first_ns);
    let end_ns = all.iter().map(|r| r.finished_ns).max().unwrap_or(due_ns).max(due_ns);
    let bins = Bins::new(start_ns, end_ns, all.len());
    let count = |at: &dyn Fn(&RequestRecord) -> Option<i64>| {
        let mut counts = vec![0_u32; bins.count];
        for place in all.iter().filter_map(|r| at(r)).filter_map(|at| bins.of(at)) {
            counts[place] += 1;
        }
        counts
    };
    let over =
        |good: bool| move |r: &RequestRecord| Some(r.finished_ns).filter(|_| r.succeeded() == good);
    let mut tokens = vec![0_u64; bins.count];
    for place in all.iter().flat_map(|r| r.reply.tokens.iter()).filter_map(|at| bins.of(at)) {
        tokens[place] += 1;
    }

    let band = |of: &dyn Fn(&RequestRecord) -> Option<f64>| {
        bins.band(
            all.iter().filter(|r| r.succeeded()).filter_map(|r| Some((r.intended_ns, of(r)?))),
        )
    };
    Series {
        bin_s: bins.width_ns as f64 / NS_PER_S as f64,
        from_s: (0..bins.count).map(|place| bins.start_s(place)).collect(),
        offered: count(&|r| Some(r.intended_ns)),
        sent: count(&|r| r.dispatched_ns),
        completed: count(&over(true)),
        failed: count(&over(false)),
        in_flight: bins.most_in_flight(&all),
        tokens,
        ttft_ms: band(&|r| r.ttft_ns(r.intended_ns).map(ms)),
        tpot_ms: band(&|r| r.tpot_ns().map(|ns| ns / 1e6)),
        stages: stage_series(&bins, &all),
        cache: cache_series(&bins, &all, run.sent_plan(), expected),
    }
}

#[cfg(test)]
mod tests {
    use super::super::bins::round_up;
    use super::super::measured::tests::{measured, outcome, plan};
    use super::*;
    use crate::send::RunOutcome;

    fn of(run: &RunOutcome) -> Series {
        let plan = plan(run.records.len());
        series(&measured(&plan, run), &ExpectedHits::default())
    }

    #[test]
    fn every_request_is_in_one_bin() {
        // Due every 10 ms, first token 50 ms later, over 90 ms later.
        let run = outcome(400, |_| 0);
        let series = of(&run);
        assert_eq!(series.bin_s, 0.5);
        assert_eq!(series.from_s.first(), Some(&0.0));
        let sum = |counts: &[u32]| counts.iter().sum::<u32>();
        assert_eq!((sum(&series.offered), sum(&series.completed)), (400, 400));
        assert_eq!((series.offered[0], sum(&series.failed)), (50, 0));
        assert_eq!(series.tokens.iter().sum::<u64>(), 1200);
        assert_eq!(series.ttft_ms.p99[0], Some(50.0));
        // One is sent every 10 ms and lives for 91 ms.
        assert_eq!(series.in_flight[1], 10);
    }

    #[test]
    fn long_runs_keep_to_the_limit_and_short_ones_have_shape() {
        for (seconds, requests) in [(86_400, 50_000), (1, 30), (600, 600)] {
            let bins = Bins::new(0, seconds * NS_PER_S, requests);
            assert!((6..=122).contains(&bins.count), "{} bins of {seconds} s", bins.count);
        }
        assert_eq!(of(&RunOutcome::default()), Series::default());
        assert_eq!((round_up(0.3), round_up(5.0), round_up(5.1)), (0.5, 5.0, 10.0));
    }
}
