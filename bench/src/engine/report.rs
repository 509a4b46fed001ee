//! The result as a table and as JSON.

use kernels::Peak;
use modelfile::ModelSpec;
use serde_json::{Map, Value, json};

use super::cases::{Case, Contender, Samples};
use super::cost::Weights;
use super::machine::Resident;
use crate::figures::{plain, render};

/// All measurements of a run, and their machine.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) cases: Vec<Case>,
    pub(super) samples: Samples,
    /// The peers that were measured.
    pub(super) peers: Vec<Contender>,
    pub(super) weights: Weights,
    pub(super) spec: ModelSpec,
    /// Tokens of a prompt per step.
    pub(super) chunk: usize,
    pub(super) machine: Machine,
}

/// The machine and the setup of the measurements.
#[derive(Debug, Default)]
pub(super) struct Machine {
    pub(super) cpu: String,
    pub(super) cores: usize,
    pub(super) memory_bytes: Option<u64>,
    pub(super) threads: usize,
    pub(super) foreign_load: usize,
    pub(super) device: String,
    /// The instruction set, if the CPU computes.
    pub(super) isa: Option<String>,
    /// The precision of activations, if the CPU computes.
    pub(super) activations: Option<String>,
    pub(super) model: String,
    /// Name and bytes of the model file.
    pub(super) file: (String, u64),
    pub(super) load_before: Option<f64>,
    pub(super) load_after: Option<f64>,
    /// The peak rates of processor and memory, if the CPU computes.
    pub(super) peak: Option<Peak>,
    /// Memory of this process after the model was loaded.
    pub(super) loaded: Option<Resident>,
    /// Memory of this process at the end.
    pub(super) ended: Option<Resident>,
    /// Peak memory of the largest of the peer's programs.
    pub(super) peer_peak_bytes: Option<u64>,
    /// The peer's build.
    pub(super) peer: Option<String>,
    /// A description of the peer's requantized file.
    pub(super) requantized: Option<String>,
    pub(super) rounds: usize,
    pub(super) measured_at: jiff::Timestamp,
}

impl Report {
    /// Returns the bytes per second and operations per second of the median of a case.
    pub(super) fn achieved(&self, case: Case) -> Option<(f64, f64)> {
        let rate = self.samples.median(case, Contender::Ours)?;
        let cost = self.weights.cost(&self.spec, case, self.chunk);
        Some((rate * cost.bytes_per_token, rate * cost.operations_per_token))
    }

    /// Renders the table and the lines around it.
    pub(super) fn text(&self) -> String {
        let mut header = vec!["case".to_owned(), "tok/s".to_owned(), "slowest-fastest".to_owned()];
        for peer in &self.peers {
            header.extend([peer_title(*peer).to_owned(), "ratio".to_owned()]);
        }
        header.extend(["GB/s".to_owned(), "Gop/s".to_owned()]);
        if self.machine.peak.is_some() {
            header.extend(["of memory".to_owned(), "of int8".to_owned()]);
        }
        let mut table = plain(header);
        for &case in &self.cases {
            table.add_row(self.row(case));
        }
        format!("{}\n{}\n{}", self.machine.head(), render(&table), self.machine.foot())
    }

    fn row(&self, case: Case) -> Vec<String> {
        let number = |value: Option<f64>, decimals: usize| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{value:.decimals$}"))
        };
        let (low, high) = self.samples.range(case, Contender::Ours).unzip();
        let mut row = vec![
            case.to_string(),
            number(self.samples.median(case, Contender::Ours), 1),
            format!("{}-{}", number(low, 0), number(high, 0)),
        ];
        for &peer in &self.peers {
            row.push(number(self.samples.median(case, peer), 1));
            let ratio = self.samples.ratio(case, peer);
            row.push(ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2} x")));
        }
        let (bytes, operations) = self.achieved(case).unzip();
        row.push(number(bytes.map(|bytes| bytes / 1e9), 2));
        row.push(number(operations.map(|operations| operations / 1e9), 0));
        if let (Some(peak), Some(bytes), Some(operations)) = (self.machine.peak, bytes, operations)
        {
            let share = |done: f64, peak: f64| format!("{:.0} %", 100.0 * done / peak);
            row.push(share(bytes, peak.memory_bytes));
            row.push(share(operations, peak.int8_operations));
        }
        row
    }

    /// Renders `{"rows": [...], "machine": {...}}`.
    pub(super) fn json(&self) -> Value {
        let rows: Vec<Value> = self.cases.iter().map(|&case| self.json_row(case)).collect();
        json!({ "rows": rows, "machine": self.machine.json() })
    }

    fn json_row(&self, case: Case) -> Value {
        let mut peers = Map::new();
        for &peer in &self.peers {
            let figures = json!({
                "tokens_per_second": self.samples.median(case, peer),
                "ratio": self.samples.ratio(case, peer),
            });
            peers.insert(peer_key(peer).to_owned(), figures);
        }
        let (slowest, fastest) = self.samples.range(case, Contender::Ours).unzip();
        let (bytes, operations) = self.achieved(case).unzip();
        json!({
            "case": case.to_string(),
            "tokens_per_second": self.samples.median(case, Contender::Ours),
            "slowest": slowest,
            "fastest": fastest,
            "bytes_per_second": bytes,
            "operations_per_second": operations,
            "peers": peers,
        })
    }
}

impl Machine {
    /// Renders one line: model, device, processor, threads, rounds.
    pub(super) fn head(&self) -> String {
        let load = match self.foreign_load {
            0 => String::new(),
            threads => format!(", busy foreign threads: {threads}"),
        };
        format!(
            "{} on {}, {}, threads: {} of {} cores{load}; median of {} rounds",
            self.file.0,
            self.device(),
            self.cpu,
            self.threads,
            self.cores,
            self.rounds
        )
    }

    /// Returns the device, with its instruction set if the CPU computes.
    pub(super) fn device(&self) -> String {
        match &self.isa {
            Some(isa) => format!("{} ({isa})", self.device),
            None => self.device.clone(),
        }
    }

    fn foot(&self) -> String {
        let mib = |bytes: u64| format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20));
        let load =
            |load: Option<f64>| load.map_or_else(|| "?".to_owned(), |load| format!("{load:.2}"));
        let mut lines = vec![format!(
            "load average {} before, {} after",
            load(self.load_before),
            load(self.load_after)
        )];
        if let Some(peak) = self.peak {
            lines.push(format!(
                "peak rates of this machine: {:.1} GB/s, {:.0} Gop/s of int8, {:.0} Gop/s of f32",
                peak.memory_bytes / 1e9,
                peak.int8_operations / 1e9,
                peak.f32_operations / 1e9
            ));
        }
        if let (Some(loaded), Some(ended)) = (self.loaded, self.ended) {
            lines.push(format!(
                "resident: {} once loaded, {} at the end, {} at its peak; the file has {}",
                mib(loaded.bytes),
                mib(ended.bytes),
                mib(ended.peak_bytes),
                mib(self.file.1)
            ));
        }
        if let Some(peer) = &self.peer {
            let memory = self
                .peer_peak_bytes
                .map_or_else(String::new, |bytes| format!(", {} at its peak", mib(bytes)));
            lines.push(format!("llama.cpp {peer}{memory}"));
        }
        lines.extend(self.requantized.clone());
        lines.join("\n")
    }

    fn json(&self) -> Value {
        let resident = |memory: Option<Resident>| {
            memory.map(|memory| json!({ "bytes": memory.bytes, "peak_bytes": memory.peak_bytes }))
        };
        json!({
            "cpu": self.cpu,
            "cores": self.cores,
            "memory_bytes": self.memory_bytes,
            "threads": self.threads,
            "foreign_load": self.foreign_load,
            "device": self.device,
            "isa": self.isa,
            "activations": self.activations,
            "model": self.model,
            "file": { "name": self.file.0, "bytes": self.file.1 },
            "load_before": self.load_before,
            "load_after": self.load_after,
            "peak": self.peak.map(|peak| json!({
                "memory_bytes_per_second": peak.memory_bytes,
                "int8_operations_per_second": peak.int8_operations,
                "f32_operations_per_second": peak.f32_operations,
            })),
            "resident_loaded": resident(self.loaded),
            "resident_end": resident(self.ended),
            "peer_peak_bytes": self.peer_peak_bytes,
            "rounds": self.rounds,
            "unix_seconds": self.measured_at.as_second(),
            "versions": {
                "tandem": env!("CARGO_PKG_VERSION"),
                "llama_cpp": self.peer,
                "requantized": self.requantized,
            },
        })
    }
}

/// Returns the heading of a contender's column.
pub(super) fn peer_title(peer: Contender) -> &'static str {
    match peer {
        Contender::Ours => "tandem",
        Contender::Same => "llama.cpp, same file",
        Contender::Requantized => "llama.cpp, Q4_0",
    }
}

fn peer_key(peer: Contender) -> &'static str {
    match peer {
        Contender::Ours => "ours",
        Contender::Same => "same",
        Contender::Requantized => "q4_0",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::example;

    #[test]
    fn the_json_has_a_row_per_case_with_both_peers() {
        let value = example::report().json();
        let rows = value["rows"].as_array().unwrap();
        let names: Vec<&str> = rows.iter().map(|row| row["case"].as_str().unwrap()).collect();
        assert_eq!(names[..4], ["prefill-128", "prefill-512", "prefill-2048", "decode-1"]);
        assert_eq!(rows.len(), Case::FULL.len());
        let row = &rows[1];
        assert_eq!(row["tokens_per_second"], 2005.0);
        assert_eq!(row["peers"]["same"]["tokens_per_second"], 501.25);
        assert_eq!(row["peers"]["q4_0"]["tokens_per_second"], 1002.5);
        assert_eq!(row["peers"]["q4_0"]["ratio"], 2.0);
        assert_eq!(value["machine"]["threads"], 2);
        assert_eq!(value["machine"]["resident_end"]["peak_bytes"], 130_u64 << 20);
    }

    #[test]
    fn a_case_that_a_peer_did_not_run_is_null_and_a_dash() {
        let mut report = example::report();
        report.samples = Samples::default();
        report.samples.add(Case::Decode(1), Contender::Ours, 50.0);
        let row = &report.json()["rows"][3];
        assert_eq!(row["tokens_per_second"], 50.0);
        assert!(row["peers"]["same"]["tokens_per_second"].is_null());
        assert!(report.row(Case::Decode(1)).contains(&"-".to_owned()));
    }

    #[test]
    fn the_table_has_rates_ratios_and_shares() {
        let report = example::report();
        let (bytes, operations) = report.achieved(Case::Decode(1)).unwrap();
        let row = report.row(Case::Decode(1));
        assert_eq!(row[..4], ["decode-1", "145.0", "140-150", "36.2"]);
        assert_eq!(row[4], "4.00 x");
        let shares =
            [bytes / 28e9, operations / 900e9].map(|share| format!("{:.0} %", 100.0 * share));
        assert_eq!(row[row.len() - 2..], shares);
        let text = report.text();
        assert!(text.contains("load average ? before, ? after"), "{text}");
        assert!(text.contains("resident: 100 MiB once loaded, 120 MiB at the end"), "{text}");
    }
}
