//! The measured requests as columns, for comparisons and charts.

use serde::{Deserialize, Serialize};

use super::measured::Measured;
use super::{ms, round3};
use crate::send::record::RequestRecord;

/// Columns with one entry per measured request, by intended time, in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Samples {
    /// Intended times from the start of the run.
    pub at_ms: Vec<f64>,
    /// Times to first token from the intended time; `None` for a failure.
    pub ttft_ms: Vec<Option<f64>>,
    /// Times per output token; `None` for a failure or a single token.
    pub tpot_ms: Vec<Option<f64>>,
    /// Times to last token from the intended time; `None` for a failure.
    pub e2e_ms: Vec<Option<f64>>,
    /// True for a failure.
    pub failed: Vec<bool>,
}

/// Returns the columns of a run.
pub fn samples(run: &Measured<'_>) -> Samples {
    let mut columns = Samples::default();
    for record in &run.records {
        let good = record.succeeded();
        let answered = |value: Option<f64>| value.filter(|_| good).map(round3);
        let from = record.intended_ns;
        columns.at_ms.push(round3(ms(from)));
        columns.ttft_ms.push(answered(record.ttft_ns(from).map(ms)));
        columns.tpot_ms.push(answered(RequestRecord::tpot_ns(record).map(|ns| ns / 1e6)));
        columns.e2e_ms.push(answered(record.e2e_ns(from).map(ms)));
        columns.failed.push(!good);
    }
    columns
}

impl Samples {
    /// Returns the column of `metric`: ttft, tpot or e2e.
    pub fn column(&self, metric: &str) -> Option<&[Option<f64>]> {
        match metric {
            "ttft" => Some(&self.ttft_ms),
            "tpot" => Some(&self.tpot_ms),
            "e2e" => Some(&self.e2e_ms),
            _ => None,
        }
    }

    /// Returns whether all columns have the same length.
    pub fn is_whole(&self) -> bool {
        let n = self.at_ms.len();
        [self.ttft_ms.len(), self.tpot_ms.len(), self.e2e_ms.len(), self.failed.len()]
            .iter()
            .all(|len| *len == n)
    }
}

/// Writes the columns as CSV, one row per request. Missing values are empty.
pub fn write_csv(out: &mut impl std::io::Write, samples: &Samples) -> std::io::Result<()> {
    let mut rows = csv::Writer::from_writer(out);
    rows.write_record(["at_ms", "ttft_ms", "tpot_ms", "e2e_ms", "failed"])?;

    for (row, at_ms) in samples.at_ms.iter().enumerate() {
        let columns = [&samples.ttft_ms, &samples.tpot_ms, &samples.e2e_ms];
        let [ttft, tpot, e2e] = columns.map(|column| {
            let value = column.get(row).copied().flatten();
            value.map_or_else(String::new, |value| value.to_string())
        });
        let failed = samples.failed.get(row).is_some_and(|failed| *failed);
        rows.write_record([at_ms.to_string(), ttft, tpot, e2e, failed.to_string()])?;
    }
    rows.flush()
}
