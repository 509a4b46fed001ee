//! RAGPulse: JSON lines with chunk ids, and five tables with the tokens of each chunk.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{ReadOptions, TraceFormat};
use crate::draft::{Arrival, Draft, Names, Order};
use crate::error::{Problem, TraceError};
use crate::fields::{Fields, object, seconds_ns};
use crate::input::{Lines, files_of};
use crate::oddity::Oddity;
use crate::sample::Sample;
use crate::trace::BlockSizes;

const FIELDS: [&str; 5] = ["timestamp", "input_length", "output_length", "hash_ids", "session_id"];
/// The parts of a prompt, in order.
const PARTS: [&str; 5] = ["sys_prompt", "passages_ids", "history", "web_search", "user_input"];
const TRACE_FILE: &str = "0_trace.jsonl";
const NAMES: Names = Names { time: "timestamp", prompt: "input_length" };

pub(crate) struct RagPulse;

impl TraceFormat for RagPulse {
    fn about(&self) -> &'static str {
        "RAGPulse JSONL with length tables, time stamps in seconds"
    }

    fn recognizes(&self, sample: &Sample) -> bool {
        let named = sample.files.iter().any(|name| name == TRACE_FILE);
        let chunked = sample.objects.iter().any(|field| field == "hash_ids");
        named || (!sample.is_list && sample.has(&FIELDS) && chunked)
    }

    fn read(&self, path: &Path, options: &ReadOptions) -> Result<Draft, TraceError> {
        let mut draft = Draft::new(Order::Ascending, NAMES, options.strict);
        let (trace, folder) = if path.is_dir() {
            (path.join(TRACE_FILE), path.to_owned())
        } else {
            (path.to_owned(), path.parent().map_or(PathBuf::from("."), Path::to_owned))
        };
        let mut chunks = Chunks::default();
        let tables = files_of(&folder)?;
        for table in tables.iter().filter(|table| is_table(table) && **table != trace) {
            let lines = Lines::open(table, &mut draft)?;
            lines.drain(&mut draft, |text, _| chunks.chunk(text))?;
        }
        let lines = Lines::open(&trace, &mut draft)?;
        if chunks.tokens.is_empty() {
            let expected = "tables such as 1_sys_prompt.jsonl beside the trace";
            return Err(Problem::new("the folder", "without chunk lengths", expected).at(&trace, 1));
        }
        lines.drain(&mut draft, |text, draft| chunks.record(text, draft))?;
        draft.sizes = BlockSizes::Each(chunks.sizes);
        Ok(draft)
    }
}

/// Returns whether `path` is a length table such as `1_sys_prompt.jsonl`.
fn is_table(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let numbered = name.strip_suffix(".jsonl").and_then(|name| name.split_once('_'));
    numbered.is_some_and(|(number, _)| number != "0" && number.parse::<u32>().is_ok())
}

/// The chunks with their token counts.
#[derive(Default)]
struct Chunks {
    tokens: HashMap<u64, u32>,
    /// Tokens by block number.
    sizes: Vec<u32>,
}

impl Chunks {
    /// Reads a line such as `{"sys_prompt_id": 8302, "token_length": 512}`.
    fn chunk(&mut self, text: &str) -> Result<(), Problem> {
        let object = object(text)?;
        let fields = Fields::new(&object, "");
        let tokens = fields.tokens("token_length", 0)?;
        let mut names = object.keys().filter(|name| *name != "token_length");
        let (Some(name), None) = (names.next(), names.next()) else {
            let expected = "an id and token_length";
            return Err(Problem::new("the line", text, expected));
        };
        let id = fields.whole(name)?;
        match self.tokens.insert(id, tokens) {
            Some(before) if before != tokens => {
                let expected = format!("{before}, as said before of chunk {id}");
                Err(Problem::new("token_length", tokens, expected))
            }
            _ => Ok(()),
        }
    }

    fn record(&mut self, text: &str, draft: &mut Draft) -> Result<(), Problem> {
        let object = object(text)?;
        let fields = Fields::new(&object, "");
        fields.only(&FIELDS, draft)?;
        let at_ns = seconds(&fields)?;
        let input_tokens = fields.tokens("input_length", 0)?;
        let output_tokens = fields.tokens("output_length", 0)?;
        let parts = match fields.get("hash_ids") {
            Some(Value::Object(parts)) => parts,
            other => {
                let found = other.map_or("missing".to_owned(), Value::to_string);
                return Err(Problem::new("hash_ids", found, format!("lists of {PARTS:?}")));
            }
        };
        let parts = Fields::new(parts, "hash_ids.");
        parts.only(&PARTS, draft)?;
        let mut blocks = Vec::new();
        let mut sum = 0_u64;
        for part in PARTS {
            for (at, id) in parts.ids(part)?.into_iter().enumerate() {
                let tokens = *self.tokens.get(&id).ok_or_else(|| {
                    let expected = "a chunk of one of the length tables";
                    Problem::new(format!("hash_ids.{part}[{at}]"), id, expected)
                })?;
                if tokens > 0 && sum < u64::from(input_tokens) {
                    blocks.push(self.block(draft, id, tokens)?);
                }
                sum += u64::from(tokens);
            }
        }
        if sum != u64::from(input_tokens) {
            let expected = format!("{input_tokens} tokens, as in input_length");
            let problem = Problem::new("hash_ids", format!("chunks of {sum} tokens"), expected);
            draft.odd(Oddity::Coverage, problem)?;
        }
        let session = Some(draft.session(fields.text("session_id")?));
        let arrival =
            Arrival { at_ns, input_tokens, output_tokens, session, blocks, ..Default::default() };
        draft.push(arrival, "")
    }

    fn block(&mut self, draft: &mut Draft, id: u64, tokens: u32) -> Result<u32, Problem> {
        let number = draft.block(0, id)?;
        if self.sizes.len() == number as usize {
            self.sizes.push(tokens);
        }
        Ok(number)
    }
}

/// Reads the time stamp, a string of seconds.
fn seconds(fields: &Fields<'_>) -> Result<i64, Problem> {
    let text = fields.text("timestamp")?;
    text.parse().ok().and_then(seconds_ns).ok_or_else(|| {
        Problem::new("timestamp", format!("{text:?}"), "a text of seconds, not negative")
    })
}
