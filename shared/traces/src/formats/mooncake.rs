//! Mooncake JSON lines: `{"timestamp", "input_length", "output_length", "hash_ids"}`, time in ms, and
//! the `session_id` and `delay` that AIPerf and Dynamo add.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value, json};

use super::{Capabilities, ReadOptions, TraceFormat, block_ids};
use crate::draft::{Arrival, Draft, Names, Order};
use crate::error::{Problem, TraceError};
use crate::fields::{Fields, object, whole};
use crate::input::Lines;
use crate::oddity::Oddity;
use crate::sample::Sample;
use crate::trace::{BlockSizes, Trace};
use crate::units::NS_PER_MS;

const FIELDS: [&str; 6] =
    ["timestamp", "input_length", "output_length", "hash_ids", "session_id", "delay"];
const NAMES: Names = Names { time: "timestamp", prompt: "input_length" };
const BLOCK_TOKENS: u32 = 512;
const WHOLE_MILLISECONDS: &str = "whole milliseconds within 70 years (a trace in seconds is another \
                                  format, see --format)";

pub(crate) struct Mooncake;

impl TraceFormat for Mooncake {
    fn about(&self) -> &'static str {
        "Mooncake JSONL, time stamps in milliseconds"
    }

    fn recognizes(&self, sample: &Sample) -> bool {
        let chunked = sample.objects.iter().any(|field| field == "hash_ids");
        !sample.is_list && sample.has(&["input_length"]) && !sample.has(&["chat_id"]) && !chunked
    }

    fn read(&self, path: &Path, options: &ReadOptions) -> Result<Draft, TraceError> {
        let block_tokens = options.block_tokens.unwrap_or(BLOCK_TOKENS);
        let mut draft = Draft::new(Order::Ascending, NAMES, options.strict);
        draft.sizes = BlockSizes::Uniform(block_tokens);
        let mut requests = Requests { block_tokens, ..Requests::default() };
        let lines = Lines::open(path, &mut draft)?;
        lines.drain(&mut draft, |text, draft| requests.record(text, draft))?;
        draft.timed = requests.timed != Some(false);
        if requests.shorter > 0 {
            draft.notes.push(format!(
                "in {} of {} later turns the prompt is shorter than in the turn before: if \
                 input_length counts only what is new in a turn, as AIPerf writes it, prompts are \
                 read too short",
                requests.shorter, requests.later
            ));
        }
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

/// A reader of requests.
#[derive(Default)]
struct Requests {
    block_tokens: u32,
    /// True if requests have time stamps; `None` before the first.
    timed: Option<bool>,
    /// Latest turn of each session.
    latest: HashMap<u32, Turn>,
    /// Number of turns that follow another one.
    later: usize,
    /// Number of those with a shorter prompt than the one before.
    shorter: usize,
}

/// A turn of a session.
#[derive(Clone, Copy)]
struct Turn {
    at_ns: i64,
    input_tokens: u32,
}

impl Requests {
    fn record(&mut self, text: &str, draft: &mut Draft) -> Result<(), Problem> {
        let object = object(text)?;
        let fields = Fields::new(&object, "");
        fields.only(&FIELDS, draft)?;
        let session = match fields.get("session_id") {
            None => None,
            Some(Value::String(name)) => Some(draft.session(name)),
            Some(Value::Number(number)) => Some(draft.session(&number.to_string())),
            Some(other) => return Err(Problem::new("session_id", other, "a text or a number")),
        };
        let before = session.and_then(|session| self.latest.get(&session).copied());
        let think_ns = delay_ns(&fields)?;
        let at_ns = self.time_ns(&fields, before, think_ns, draft)?;
        let input_tokens = fields.tokens("input_length", 0)?;
        let output_tokens = output_tokens(&fields, draft)?;
        if let Some(session) = session {
            self.later += usize::from(before.is_some());
            self.shorter +=
                usize::from(before.is_some_and(|turn| turn.input_tokens > input_tokens));
            self.latest.insert(session, Turn { at_ns, input_tokens });
        }
        let ids = fields.optional_ids("hash_ids")?;
        draft.check_coverage("hash_ids", ids.len(), input_tokens, self.block_tokens)?;
        let blocks = draft.blocks(&ids)?;
        let service_ns = None;
        let arrival =
            Arrival { at_ns, input_tokens, output_tokens, session, think_ns, service_ns, blocks };
        draft.push(arrival, "")
    }

    /// Reads the time stamp. A later turn may have none: it follows the turn `before` it after the
    /// delay. Otherwise all requests have one, or none has.
    fn time_ns(
        &mut self,
        fields: &Fields<'_>,
        before: Option<Turn>,
        think_ns: Option<i64>,
        draft: &mut Draft,
    ) -> Result<i64, Problem> {
        let value = fields.get("timestamp");
        if let (None, Some(turn)) = (value, before) {
            return Ok(turn.at_ns.saturating_add(think_ns.unwrap_or(0)));
        }
        match (value, *self.timed.get_or_insert(value.is_some())) {
            (None, false) => Ok(0),
            (Some(value), true) => {
                let problem = Problem::new("timestamp", value, WHOLE_MILLISECONDS);
                let Some(at_ns) = nanoseconds(value) else { return Err(problem) };
                if value.as_f64().is_some_and(|ms| ms.fract() != 0.0) {
                    draft.odd(Oddity::FractionalTime, problem)?;
                }
                Ok(at_ns)
            }
            (None, true) => Err(Problem::new("timestamp", "missing", WHOLE_MILLISECONDS)),
            (Some(value), false) => {
                let expected = "none, since requests above have none";
                Err(Problem::new("timestamp", value, expected))
            }
        }
    }
}

/// Reads the time from the end of the preceding turn.
fn delay_ns(fields: &Fields<'_>) -> Result<Option<i64>, Problem> {
    let Some(value) = fields.get("delay") else { return Ok(None) };
    match nanoseconds(value) {
        Some(ns) => Ok(Some(ns)),
        None => Err(Problem::new("delay", value, "milliseconds, not negative")),
    }
}

fn output_tokens(fields: &Fields<'_>, draft: &mut Draft) -> Result<u32, Problem> {
    if fields.get("output_length").is_some() {
        return fields.tokens("output_length", 0);
    }
    let problem = Problem::new("output_length", "missing", "a whole number, not negative");
    draft.odd(Oddity::NoOutputLength, problem)?;
    Ok(0)
}

/// Converts milliseconds, if they are not negative and within 70 years. Whole ones are exact.
fn nanoseconds(value: &Value) -> Option<i64> {
    let ms = value.as_f64()?;
    let exact = value.as_u64().or_else(|| whole(ms)).and_then(|ms| i64::try_from(ms).ok());
    let ns = match exact {
        Some(ms) => ms.checked_mul(NS_PER_MS)?,
        None => (ms * NS_PER_MS as f64).round() as i64,
    };
    (ms >= 0.0 && ns < i64::MAX / 4).then_some(ns)
}
