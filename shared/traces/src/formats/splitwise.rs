//! Splitwise-sim CSV: one request a row, time in seconds.

use std::io::{self, Write};
use std::path::Path;

use super::{Capabilities, ReadOptions, TraceFormat};
use crate::columns::{Row, Table};
use crate::draft::{Arrival, Draft, Names, Order};
use crate::error::{Problem, TraceError};
use crate::sample::Sample;
use crate::trace::Trace;

const COLUMNS: [&str; 7] = [
    "request_id",
    "request_type",
    "application_id",
    "arrival_timestamp",
    "batch_size",
    "prompt_size",
    "token_size",
];

const NAMES: Names = Names { time: COLUMNS[3], prompt: COLUMNS[5] };

pub(crate) struct Splitwise;

impl TraceFormat for Splitwise {
    fn about(&self) -> &'static str {
        "Splitwise-sim CSV, time stamps in seconds"
    }

    fn recognizes(&self, sample: &Sample) -> bool {
        COLUMNS.iter().all(|name| sample.columns.iter().any(|column| column == name))
    }

    fn read(&self, path: &Path, options: &ReadOptions) -> Result<Draft, TraceError> {
        let mut draft = Draft::new(Order::Ascending, NAMES, options.strict);
        Table::open(path, &COLUMNS, &[], &mut draft)?.drain(&mut draft, record)?;
        Ok(draft)
    }

    fn capabilities(&self) -> Option<Capabilities> {
        Some(Capabilities {
            blocks: false,
            sessions: false,
            thinking: false,
            clock: true,
            step_ns: 1,
        })
    }

    fn write(&self, trace: &Trace, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}", COLUMNS.join(","))?;
        for (id, record) in trace.records.iter().enumerate() {
            let (input, output) = (record.input_tokens, record.output_tokens);
            writeln!(out, "{id},2,0,{},1,{input},{output}", record.at_ns as f64 / 1e9)?;
        }
        Ok(())
    }
}

fn record(row: &Row<'_>, draft: &mut Draft) -> Result<(), Problem> {
    for column in &COLUMNS[..3] {
        draft.optional(column, row.whole(column))?;
    }
    let batch = row.whole(COLUMNS[4])?;
    if batch != 1 {
        return Err(Problem::new(COLUMNS[4], batch, "1: a request is one prompt"));
    }
    let at_ns = row.seconds(COLUMNS[3])?;
    let input_tokens = row.tokens(COLUMNS[5], 0)?;
    let output_tokens = row.tokens(COLUMNS[6], 0)?;
    draft.push(Arrival { at_ns, input_tokens, output_tokens, ..Default::default() }, "")
}
