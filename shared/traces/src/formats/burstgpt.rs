//! BurstGPT CSV: one request a row, time in seconds, with or without session ids.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::Path;

use super::{Capabilities, ReadOptions, TraceFormat};
use crate::columns::{Row, Table};
use crate::draft::{Arrival, Draft, Names, Order};
use crate::error::{Problem, TraceError};
use crate::sample::Sample;
use crate::trace::Trace;

const COLUMNS: [&str; 6] =
    ["Timestamp", "Model", "Request tokens", "Response tokens", "Total tokens", "Log Type"];
const NAMES: Names = Names { time: COLUMNS[0], prompt: COLUMNS[2] };
const SESSION_COLUMNS: [&str; 2] = ["Session ID", "Elapsed time"];

pub(crate) struct BurstGpt;

impl TraceFormat for BurstGpt {
    fn about(&self) -> &'static str {
        "BurstGPT CSV, time stamps in seconds"
    }

    fn recognizes(&self, sample: &Sample) -> bool {
        COLUMNS.iter().all(|name| sample.columns.iter().any(|column| column == name))
    }

    fn read(&self, path: &Path, options: &ReadOptions) -> Result<Draft, TraceError> {
        let mut draft = Draft::new(Order::Ascending, NAMES, options.strict);
        let table = Table::open(path, &COLUMNS, &SESSION_COLUMNS, &mut draft)?;
        table.drain(&mut draft, record)?;
        Ok(draft)
    }

    fn capabilities(&self) -> Option<Capabilities> {
        Some(Capabilities {
            blocks: false,
            sessions: true,
            thinking: true,
            clock: true,
            step_ns: 1,
        })
    }

    fn write(&self, trace: &Trace, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{},{}", COLUMNS.join(","), SESSION_COLUMNS.join(","))?;
        let services = services(trace);
        for (record, service) in trace.records.iter().zip(services) {
            let (at, input, output) =
                (seconds(record.at_ns), record.input_tokens, record.output_tokens);
            let total = u64::from(input) + u64::from(output);
            let session = record.session.map_or(String::new(), |session| session.to_string());
            let log = if record.session.is_some() { "Conversation log" } else { "API log" };
            writeln!(out, "{at},unknown,{input},{output},{total},{log},{session},{service}")?;
        }
        Ok(())
    }
}

fn seconds(ns: i64) -> f64 {
    ns as f64 / 1e9
}

/// Derives the duration of each response from the next turn; empty for a last turn.
fn services(trace: &Trace) -> Vec<String> {
    let mut services = vec![String::new(); trace.records.len()];
    let mut latest: HashMap<u32, usize> = HashMap::new();
    for (at, record) in trace.records.iter().enumerate() {
        let Some(before) = record.session.and_then(|session| latest.insert(session, at)) else {
            continue;
        };
        let gap_ns = record.at_ns - trace.records[before].at_ns;
        services[before] = seconds((gap_ns - record.think_ns).max(0)).to_string();
    }
    services
}

/// Reads one request. A failed one has no response tokens, and perhaps no prompt tokens.
fn record(row: &Row<'_>, draft: &mut Draft) -> Result<(), Problem> {
    let at_ns = row.seconds(COLUMNS[0])?;
    let input_tokens = row.tokens(COLUMNS[2], 0)?;
    let output_tokens = row.tokens(COLUMNS[3], 0)?;
    let sum = u64::from(input_tokens) + u64::from(output_tokens);
    let total = row.whole(COLUMNS[4]).and_then(|total| {
        let expected = format!("{sum}, the sum of {} and {}", COLUMNS[2], COLUMNS[3]);
        if total == sum { Ok(()) } else { Err(Problem::new(COLUMNS[4], total, expected)) }
    });
    draft.optional(COLUMNS[4], total)?;
    for column in [COLUMNS[1], COLUMNS[5]] {
        if row.cell(column).is_empty() {
            let problem = Problem::new(column, "empty", "a name");
            draft.optional::<()>(column, Err(problem))?;
        }
    }
    let session = Some(row.cell(SESSION_COLUMNS[0])).filter(|name| !name.is_empty());
    let session = session.map(|name| draft.session(name));
    let elapsed = SESSION_COLUMNS[1];
    let service_ns = if row.cell(elapsed).is_empty() {
        None
    } else {
        draft.optional(elapsed, row.seconds(elapsed))?
    };
    let arrival =
        Arrival { at_ns, input_tokens, output_tokens, session, service_ns, ..Default::default() };
    draft.push(arrival, "")
}
