//! Mooncake JSON lines: `{"timestamp", "input_length", "output_length", "hash_ids"}`, time in ms.

use std::io::{self, Write};
use std::path::Path;

use serde_json::json;

use super::{Capabilities, ReadOptions, TraceFormat, block_ids};
use crate::draft::{Arrival, Draft, Order};
use crate::error::{Problem, TraceError};
use crate::fields::{Fields, check_coverage, object};
use crate::input::Lines;
use crate::sample::Sample;
use crate::trace::{BlockSizes, Trace};
use crate::units::NS_PER_MS;

const FIELDS: [&str; 4] = ["timestamp", "input_length", "output_length", "hash_ids"];
const BLOCK_TOKENS: u32 = 512;

pub(crate) struct Mooncake;

impl TraceFormat for Mooncake {
    fn about(&self) -> &'static str {
        "Mooncake JSONL, time stamps in milliseconds"
    }

    fn recognizes(&self, sample: &Sample) -> bool {
        !sample.is_list && sample.keys.len() == FIELDS.len() && sample.has(&FIELDS)
    }

    fn read(&self, path: &Path, options: &ReadOptions) -> Result<Draft, TraceError> {
        let block_tokens = options.block_tokens.unwrap_or(BLOCK_TOKENS);
        let mut draft = Draft::new(Order::Ascending);
        draft.sizes = BlockSizes::Uniform(block_tokens);
        Lines::open(path)?.drain(&mut draft, |text, draft| record(text, block_tokens, draft))?;
        Ok(draft)
    }

    fn capabilities(&self) -> Option<Capabilities> {
        Some(Capabilities {
            blocks: true,
            sessions: false,
            thinking: false,
            clock: true,
            step_ns: NS_PER_MS,
        })
    }

    fn write(&self, trace: &Trace, out: &mut dyn Write) -> io::Result<()> {
        let block_tokens = trace.sizes.uniform().unwrap_or(BLOCK_TOKENS);
        for (record, ids) in trace.records.iter().zip(block_ids(trace, block_tokens)) {
            let line = json!({
                "timestamp": record.at_ns / NS_PER_MS,
                "input_length": record.input_tokens,
                "output_length": record.output_tokens,
                "hash_ids": ids,
            });
            writeln!(out, "{line}")?;
        }
        Ok(())
    }
}

fn record(text: &str, block_tokens: u32, draft: &mut Draft) -> Result<(), Problem> {
    let object = object(text)?;
    let fields = Fields::new(&object, "");
    fields.only(&FIELDS)?;
    let time_ms = fields.whole("timestamp").map_err(|problem| Problem {
        expected: "whole milliseconds (a trace in seconds is another format, see --format)".into(),
        ..problem
    })?;
    let at_ns = i64::try_from(time_ms).ok().and_then(|ms| ms.checked_mul(NS_PER_MS));
    let at_ns = at_ns
        .filter(|ns| *ns < i64::MAX / 4)
        .ok_or_else(|| Problem::new("timestamp", time_ms, "milliseconds within 70 years"))?;
    let input_tokens = fields.tokens("input_length", 1)?;
    let output_tokens = fields.tokens("output_length", 0)?;
    let ids = fields.ids("hash_ids")?;
    check_coverage("hash_ids", ids.len(), input_tokens, block_tokens)?;
    let blocks = draft.blocks(&ids)?;
    draft.push(
        Arrival { at_ns, input_tokens, output_tokens, blocks, ..Default::default() },
        FIELDS[0],
    )
}
