//! Qwen-Bailian JSON lines: chats with parents, time in seconds, blocks of 16 tokens.

use std::collections::HashMap;
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

const FIELDS: [&str; 8] = [
    "chat_id",
    "parent_chat_id",
    "timestamp",
    "input_length",
    "output_length",
    "type",
    "turn",
    "hash_ids",
];
const BLOCK_TOKENS: u32 = 16;

pub(crate) struct Bailian;

impl TraceFormat for Bailian {
    fn about(&self) -> &'static str {
        "Qwen-Bailian JSONL, time stamps in seconds"
    }

    fn recognizes(&self, sample: &Sample) -> bool {
        !sample.is_list && sample.has(&["chat_id", "parent_chat_id", "timestamp", "hash_ids"])
    }

    fn read(&self, path: &Path, options: &ReadOptions) -> Result<Draft, TraceError> {
        let block_tokens = options.block_tokens.unwrap_or(BLOCK_TOKENS);
        let mut draft = Draft::new(Order::Ascending);
        draft.sizes = BlockSizes::Uniform(block_tokens);
        let mut chats = HashMap::new();
        Lines::open(path)?
            .drain(&mut draft, |text, draft| record(text, block_tokens, &mut chats, draft))?;
        Ok(draft)
    }

    fn capabilities(&self) -> Option<Capabilities> {
        Some(Capabilities {
            blocks: true,
            sessions: true,
            thinking: false,
            clock: true,
            step_ns: NS_PER_MS,
        })
    }

    fn write(&self, trace: &Trace, out: &mut dyn Write) -> io::Result<()> {
        let block_tokens = trace.sizes.uniform().unwrap_or(BLOCK_TOKENS);
        let mut latest: HashMap<u32, i64> = HashMap::new();
        let rows = trace.records.iter().zip(block_ids(trace, block_tokens));
        for (chat, (record, ids)) in (0_i64..).zip(rows) {
            let parent = record.session.and_then(|session| latest.insert(session, chat));
            let line = json!({
                "chat_id": chat,
                "parent_chat_id": parent.unwrap_or(-1),
                "timestamp": (record.at_ns / NS_PER_MS) as f64 / 1e3,
                "input_length": record.input_tokens,
                "output_length": record.output_tokens,
                "type": "text",
                "turn": record.turn + 1,
                "hash_ids": ids,
            });
            writeln!(out, "{line}")?;
        }
        Ok(())
    }
}

/// Reads one chat. A chat whose parent is not in the file begins a session.
fn record(
    text: &str,
    block_tokens: u32,
    chats: &mut HashMap<i64, u32>,
    draft: &mut Draft,
) -> Result<(), Problem> {
    let object = object(text)?;
    let fields = Fields::new(&object, "");
    fields.only(&FIELDS)?;
    let chat = fields.integer("chat_id")?;
    let parent = fields.integer("parent_chat_id")?;
    fields.text("type")?;
    fields.whole("turn")?;
    let at_ns = fields.seconds("timestamp")?;
    let input_tokens = fields.tokens("input_length", 1)?;
    let output_tokens = fields.tokens("output_length", 0)?;
    let ids = fields.ids("hash_ids")?;
    check_coverage("hash_ids", ids.len(), input_tokens, block_tokens)?;
    let session = chats.get(&parent).copied().unwrap_or_else(|| draft.new_session());
    chats.insert(chat, session);
    let session = Some(session);
    let blocks = draft.blocks(&ids)?;
    let arrival =
        Arrival { at_ns, input_tokens, output_tokens, session, blocks, ..Default::default() };
    draft.push(arrival, "timestamp")
}
